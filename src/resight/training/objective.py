"""The loss of images: the cross entropy that is reported, and the objective that is minimized."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.augment import Labels, MixedLabels
from ..recipe import Loss, power_of

_SMALLEST = 1e-8  # of 1 - p in float32; below it (1 - p) ** gamma would have an infinite slope


def image_losses(
    logits: Tensor, labels: Labels, loss: Loss, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the cross entropy to report and the objective to minimize of each image, (N,) each.

    logits: (N, K) of any precision; labels: (N,); weights: (K,) of `class_weights`, or None.

    With p_k the softmax, y the label, e the label smoothing, g `focal_gamma` and w the weights,

        cross entropy = -log p_y
        objective = w_y (1 - p_y)^g (-(1 - e) log p_y - e mean_k log p_k)

    The cross entropy has none of the settings, so that the curves of two recipes can be compared.
    The focal factor (Lin et al. 2017, arXiv 1708.02002) has a gradient too. It multiplies the
    smoothed cross entropy, so an image that the network is sure of is not made less sure. An image
    counts by the weight of its label alone; torch's CrossEntropyLoss(weight, label_smoothing) gives
    each class of the smoothed label its own weight, which would favor rare classes in all images.

    Of mixed labels, both numbers are share * (that of the first) + (1 - share) * (of the second).
    """
    if isinstance(labels, MixedLabels):
        both = (image_losses(logits, label, loss, weights) for label in labels[:2])
        (nll, objective), (other_nll, other_objective) = both
        share = labels.share
        return torch.lerp(other_nll, nll, share), torch.lerp(other_objective, objective, share)
    log_probs = F.log_softmax(logits.float(), dim=1)  # (N, K)
    nll = F.nll_loss(log_probs, labels, reduction="none")
    smoothing = loss.label_smoothing
    objective = (1 - smoothing) * nll - smoothing * log_probs.mean(dim=1)
    if loss.focal_gamma is not None:
        objective = objective * (-torch.expm1(-nll)).clamp_min(_SMALLEST) ** loss.focal_gamma
    if weights is not None:
        objective = objective * weights[labels]
    return nll, objective


def class_weights(loss: Loss, labels: Tensor, num_classes: int) -> Tensor | None:
    """Return the weight (K,) float32 of each class for the training labels (N,), None without.

    It is in proportion to (N / (K n_k)) ** power; with power 1 that is scikit-learn's "balanced".
    The mean weight over the training images is 1, so the loss of a batch is the sum over its images
    divided by their number. torch's CrossEntropyLoss(weight) divides by the sum of the batch's
    weights, which differs between micro-batches and ranks, so that their gradients do not add up.
    """
    power = power_of(loss.class_weights)
    if not power:
        return None
    counts = torch.bincount(labels.cpu(), minlength=num_classes).double()  # (K,)
    weights = torch.where(counts > 0, counts**-power, 0)  # no image has the weight of no images
    return (weights * len(labels) / (weights @ counts)).float().to(labels.device)
