"""The formulas of the gradient methods, from activations and the gradient of a logit.

Every function takes A (N, C, h, w), the activations, and G (N, C, h, w), the gradient dy/dA of the
logit y, both float32, and gives the map (N, h, w) before the final ReLU of its paper. i and j run
over the cells of the map, k over its channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Sum_k w_k A_k with w_k = mean_ij G_kij.

    Selvaraju et al. 2017, "Grad-CAM", arXiv 1610.02391, equations 1 and 2.
    """
    return weighted_sum(activations, gradients.mean(dim=(2, 3)))


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Sum_k w_k A_k with w_k = sum_ij a_kij relu(G_kij).

    a_kij = G_kij^2 / (2 G_kij^2 + G_kij^3 sum_ab A_kab), and 0 where G_kij = 0. The factor exp(y)
    that the paper's derivatives share is left out: it scales the whole map.

    Chattopadhay et al. 2018, "Grad-CAM++", arXiv 1710.11063, equations 7, 10 and 19.
    """
    # Divided by G^2, so that small gradients do not underflow.
    below = 2 + gradients * activations.sum(dim=(2, 3), keepdim=True)
    share = torch.where((gradients != 0) & (below != 0), 1 / below, 0.0)
    return weighted_sum(activations, (share * gradients.relu()).sum(dim=(2, 3)))


def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Sum_k G_k A_k, cell by cell: what the network used where it used it.

    Draelos & Carin 2020, "Use HiResCAM instead of Grad-CAM", arXiv 2011.08891, equation 4.
    """
    return (activations * gradients).sum(dim=1)


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Sum_k relu(G_k) A_k, cell by cell; finer than Grad-CAM at early layers.

    Jiang et al. 2021, "LayerCAM", IEEE Transactions on Image Processing 30, equations 5 to 7.
    """
    return (activations * gradients.relu()).sum(dim=1)


def x_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Sum_k w_k A_k with w_k = sum_ij A_kij G_kij / sum_ij A_kij, and 0 where that sum is 0.

    Fu et al. 2020, "Axiom-based Grad-CAM", arXiv 2008.02312, equation 8.
    """
    total = activations.sum(dim=(2, 3))  # (N, C)
    share = (activations * gradients).sum(dim=(2, 3)) / torch.where(total != 0, total, 1.0)
    return weighted_sum(activations, torch.where(total != 0, share, 0.0))


def eigen_cam(activations: Tensor) -> Tensor:
    """Project activations (N, C, h, w) on their first principal direction: (N, h, w).

    A = U S V^T with a row a cell and a column a channel, not centered; the map is A v_1. It belongs
    to no class. The sign of v_1 is open: here the map's sum is not negative.

    Muhammad & Yeasin 2020, "Eigen-CAM", arXiv 2008.00299, equations 2 to 4.
    """
    n, _, h, w = activations.shape
    rows = activations.flatten(2).transpose(1, 2)  # (N, cells, C)
    wide = rows.shape[1] < rows.shape[2]
    square = rows @ rows.mT if wide else rows.mT @ rows  # the smaller of the two
    device = torch.device("cpu") if square.device.type == "mps" else square.device  # MPS: no eigh
    values, vectors = (part.to(square) for part in torch.linalg.eigh(square.to(device)))
    first = vectors[..., -1:]  # (N, cells or C, 1), as values ascend
    # A v_1 = s_1 u_1, and s_1 is the root of the largest eigenvalue.
    along = first * values[:, None, -1:].clamp(min=0).sqrt() if wide else rows @ first
    along = torch.where(along.sum(dim=1, keepdim=True) < 0, -along, along)
    return along.reshape(n, h, w)


def weighted_sum(activations: Tensor, weights: Tensor) -> Tensor:
    """Return activations (N, C, h, w) summed over C by weights: (N, M, C) gives (N, M, h, w)."""
    return torch.einsum("n...c,nchw->n...hw", weights, activations)


GRADIENT_FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "hirescam": hires_cam,
    "layercam": layer_cam,
    "xgrad-cam": x_grad_cam,
    "finer-cam": grad_cam,  # of the difference of two logits
}
