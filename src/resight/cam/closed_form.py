"""Grad-CAM without a backward pass, where a network ends in global pooling and a linear layer.

There the logits are z = W f + b with f_k = pool(A_k), so dz_c/dA_kij summed over the cells is W_ck:
each cell has W_ck / (h w) under average pooling, and the largest has all of it under max pooling.
Either way the Grad-CAM weight of a channel is W_ck / (h w), and the maps of all classes are one
product with the activations: class activation mapping (Zhou et al. 2016, arXiv 1512.04150).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .hooks import ForwardRecord
from .layouts import Grid


def channel_weights(record: ForwardRecord, cotangents: Tensor, grid: Grid) -> Tensor | None:
    """Return Grad-CAM's weight of each channel, (M, N, K) -> (N, M, C); None if the form fails.

    `record`: a forward pass that kept one layer, of that `grid`. Four things are looked up in it,
    not guessed from the names of modules: that the last linear layer computes W f + b; that its
    input f is the layer's map, averaged or at its largest, and differentiated as such; that the
    logits depend on the map through the linear layer alone; and how they depend on its output (a
    factor, most often 1).
    """
    if record.linear is None or record.logits.grad_fn is None:
        return None
    module, features, outputs = record.linear
    (activations,) = record.activations.values()
    if not _is_pooled(grid.map_of(activations.detach()), features.detach()):
        return None
    if not _only_through(record.logits.grad_fn, outputs.grad_fn, activations):
        return None
    if not (_is_linear(module, features, outputs) and _has_pooled_gradient(features, activations)):
        return None
    weights = []
    for cotangent in cotangents:
        (outer,) = torch.autograd.grad(
            record.logits, outputs, cotangent.to(record.logits), retain_graph=True
        )
        weights.append(outer.float() @ module.weight.detach().float())  # (N, K) -> (N, C)
    return torch.stack(weights, dim=1) / grid.cells


def _is_pooled(activations: Tensor, features: Tensor) -> bool:
    """Whether features (N, C) are the maps (N, C, h, w), averaged or at their maximum."""
    if features.shape != activations.shape[:2]:
        return False
    flat = activations.flatten(2).float()  # (N, C, cells)
    scale = float(flat.abs().amax())
    if not math.isfinite(scale):
        return False
    return any(
        torch.allclose(features.float(), pooled, rtol=1e-5, atol=1e-6 * scale)
        for pooled in (flat.mean(dim=2), flat.amax(dim=2))
    )


def _is_linear(module: nn.Linear, features: Tensor, outputs: Tensor) -> bool:
    """Whether outputs are W f + b; not so where a hook or a parametrization changes them."""
    if module._backward_hooks or module._backward_pre_hooks:
        return False
    plain = F.linear(features.detach().to(outputs), *_weight_and_bias(module, outputs))
    scale, eps = float(plain.abs().amax()), torch.finfo(outputs.dtype).eps
    return torch.allclose(outputs.detach(), plain, rtol=0, atol=scale * max(1e-4, 4 * eps))


def _weight_and_bias(module: nn.Linear, like: Tensor) -> tuple[Tensor, Tensor | None]:
    bias = None if module.bias is None else module.bias.detach().to(like)
    return module.weight.detach().to(like), bias


def _has_pooled_gradient(features: Tensor, activations: Tensor) -> bool:
    """Whether each feature's gradient adds up to 1 over the cells, as of a mean or a maximum."""
    if not features.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(
        features, activations, torch.ones_like(features), retain_graph=True, allow_unused=True
    )
    if gradient is None:
        return False
    total = float(gradient.float().sum()) / features.numel()
    return math.isclose(total, 1.0, rel_tol=1e-2)


def _only_through(end: Any, gate: Any, source: Tensor) -> bool:
    """Whether every way back from `end` in autograd's graph to `source` leads through `gate`."""
    begin = source.grad_fn  # None for a leaf, which an AccumulateGrad node stands for
    visited, queue = {gate}, [end]
    while queue:
        node = queue.pop()
        if node in visited:
            continue
        if node is begin or getattr(node, "variable", None) is source:
            return False
        visited.add(node)
        queue.extend(before for before, _ in node.next_functions if before is not None)
    return True
