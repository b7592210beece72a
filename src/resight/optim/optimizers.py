"""Parameter groups, optimizers, and the learning rate and momentum that a schedule sets."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from .. import recipe
from ..networks.norms import norm_kind
from .muon import MuonOptimizer


def build_optimizer(spec: recipe.Optimizer, model: nn.Module) -> Optimizer:
    """Build the optimizer of `spec` over every trainable parameter of `model`, at its peak rate.

    Normalization parameters and biases form a group without weight decay, unless
    `decay_norm_bias`. With SGD and `norm_bias_lr_scale` s != 1 the biases of normalization layers
    form another group, at s times the rate and 1/s times the weight decay: SGD moves a weight by
    lr * weight_decay of itself a step, which so stays the same (Jordan 2024). Each group carries
    its factor as "lr_scale", which `set_rates` applies.

    Not `fused`: PyTorch's fused CPU kernels save under 1 % of a batch, and silently compute
    nonsense if a gradient or a restored state is not laid out in memory like its weight (2.13).
    """
    if isinstance(spec, recipe.Muon):
        return MuonOptimizer(_muon_groups(spec, model), momentum=spec.momentum)
    scale = spec.norm_bias_lr_scale if isinstance(spec, recipe.SGD) else 1.0
    groups = _groups(spec, model, lr=spec.lr, norm_bias_lr_scale=scale)
    match spec:
        case recipe.SGD():
            return SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov)
        case recipe.Adam() | recipe.AdamW():
            kind = Adam if spec.name == "adam" else AdamW
            return kind(groups, lr=spec.lr, betas=(spec.beta1, spec.beta2), eps=spec.eps)
        case recipe.RMSprop():
            return RMSprop(
                groups, lr=spec.lr, alpha=spec.alpha, momentum=spec.momentum, eps=spec.eps
            )


def set_rates(optimizer: Optimizer, lr: float, momentum: float | None) -> None:
    """Set the learning rate of every group, times its "lr_scale", and the momentum.

    Momentum is beta1 in Adam and AdamW; None leaves it as it is.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


@torch.no_grad()
def add_l1_gradient(model: nn.Module, l1: float) -> None:
    """Add the gradient of l1 * sum |w| to the gradients, over weights without norms and biases.

    A weight that is exactly 0 or has no gradient is left alone. Call this once a step, after the
    last micro-batch (and after gradients are unscaled), not once a micro-batch.
    """
    weights: list[torch.Tensor] = [
        parameter
        for module, _, parameter in _trainable(model)
        if not _is_norm_or_bias(module, parameter) and parameter.grad is not None
    ]
    if weights:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=l1)


def _groups(
    spec: recipe.Optimizer, model: nn.Module, *, lr: float, norm_bias_lr_scale: float
) -> list[dict[str, Any]]:
    weights: list[nn.Parameter] = []
    norms_biases: list[nn.Parameter] = []  # normalization parameters, and biases of any layer
    quick: list[nn.Parameter] = []  # biases of normalization layers, at their own rate
    for module, name, parameter in _trainable(model):
        if norm_bias_lr_scale != 1 and name == "bias" and norm_kind(module) is not None:
            quick.append(parameter)
        elif _is_norm_or_bias(module, parameter) and not spec.decay_norm_bias:
            norms_biases.append(parameter)
        else:
            weights.append(parameter)
    quick_decay = spec.weight_decay / norm_bias_lr_scale if spec.decay_norm_bias else 0.0
    groups = (
        (weights, 1.0, spec.weight_decay),
        (norms_biases, 1.0, 0.0),
        (quick, norm_bias_lr_scale, quick_decay),
    )
    return [
        {"params": params, "lr": lr * scale, "lr_scale": scale, "weight_decay": decay}
        for params, scale, decay in groups
        if params
    ]


def _muon_groups(spec: recipe.Muon, model: nn.Module) -> list[dict[str, Any]]:
    """Filter banks at `lr`; other weights grouped as for SGD, their rates in proportion to `lr`."""
    groups = _groups(spec, model, lr=spec.sgd_lr, norm_bias_lr_scale=spec.norm_bias_lr_scale)
    banks = [weight for group in groups for weight in group["params"] if weight.ndim == 4]
    for group in groups:
        group["params"] = [weight for weight in group["params"] if weight.ndim != 4]
        group["lr_scale"] *= spec.sgd_lr / spec.lr
    orthogonal = {"lr": spec.lr, "lr_scale": 1.0, "weight_decay": 0.0, "orthogonal": True}
    return [group for group in ({"params": banks, **orthogonal}, *groups) if group["params"]]


def _trainable(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """(owner, name in the owner, parameter), each parameter once though layers may share it."""
    visited: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in visited:
                visited.add(parameter)
                yield module, name, parameter


def _is_norm_or_bias(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Biases, and the scales of norms of any make, have one dimension; weights have more."""
    return norm_kind(module) is not None or parameter.ndim < 2
