"""Parameter groups, optimizers, and the learning rate and momentum that a schedule sets."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from .. import recipe
from ..networks.freeze import head_of
from ..networks.norms import norm_kind
from .muon import MuonOptimizer


def build_optimizer(spec: recipe.Optimizer, model: nn.Module) -> Optimizer:
    """Build the optimizer of `spec` over every trainable parameter of `model`, at its peak rate.

    Normalization parameters and biases form a group without weight decay, unless
    `decay_norm_bias`. With SGD and `norm_bias_lr_scale` s != 1 the biases of normalization layers
    form another group, at s times the rate and 1/s times the weight decay: SGD moves a weight by
    lr * weight_decay of itself a step, which so stays the same (Jordan 2024). With a
    `backbone_lr_scale` the groups of everything but the head have their rates multiplied by it.
    Each group carries its factor as "lr_scale", which `lr_ratios` reads.

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


def lr_ratios(optimizer: Optimizer) -> list[float]:
    """Return the rate of each parameter group as a multiple of the rate of the run.

    The rate of a run is that of the group with the highest rate, and other groups keep their ratio
    to it: so a schedule, `optimizer.lr` and a range test mean the same rate. The ratio is that of
    the present rates; if all of them are 0, as before a warm-up, that of "initial_lr". If every
    group carries a factor "lr_scale", as resight's own and timm's groups do, that is the ratio.
    """
    groups = optimizer.param_groups
    if all("lr_scale" in group for group in groups):
        return [float(group["lr_scale"]) for group in groups]
    for name in ("lr", "initial_lr"):
        rates = [float(group.get(name, 0.0)) for group in groups]
        if max(rates) > 0:
            return [rate / max(rates) for rate in rates]
    return [1.0] * len(groups)


def set_lrs(optimizer: Optimizer, lr: float, ratios: Sequence[float]) -> None:
    """Set the learning rate of each group to its ratio times `lr`.

    A rate that is a tensor stays that tensor, as a captured graph reads it.
    """
    for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
        rate = lr * ratio
        group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Set the momentum of every group; in Adam and its kin this is the first of the betas."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def set_rates(optimizer: Optimizer, lr: float, momentum: float | None) -> None:
    """Set the rate of the run, which `lr_ratios` defines, and the momentum; None leaves it."""
    set_lrs(optimizer, lr, lr_ratios(optimizer))
    if momentum is not None:
        set_momentum(optimizer, momentum)


@torch.no_grad()
def add_l1_gradient(model: nn.Module, l1: float) -> None:
    """Add the gradient of l1 * sum |w| to the gradients, over weights without norms and biases.

    A weight that is exactly 0 or has no gradient is left alone. Call this once a step, after the
    last micro-batch (and after gradients are unscaled), not once a micro-batch.
    """
    weights: list[Tensor] = [
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
    """Return the groups of the backbone and, where its rate differs, those of the head."""
    if spec.backbone_lr_scale == 1:
        return _groups_of([*_trainable(model)], spec, lr=lr, norm_bias_lr_scale=norm_bias_lr_scale)
    head = {*head_of(model)[1].parameters()}
    parts = {
        spec.backbone_lr_scale: [entry for entry in _trainable(model) if entry[2] not in head],
        1.0: [entry for entry in _trainable(model) if entry[2] in head],
    }
    return [
        group | {name: group[name] * scale for name in ("lr", "lr_scale")}
        for scale, part in parts.items()
        for group in _groups_of(part, spec, lr=lr, norm_bias_lr_scale=norm_bias_lr_scale)
    ]


def _groups_of(
    trainable: Sequence[tuple[nn.Module, str, nn.Parameter]],
    spec: recipe.Optimizer,
    *,
    lr: float,
    norm_bias_lr_scale: float,
) -> list[dict[str, Any]]:
    weights: list[nn.Parameter] = []
    norms_biases: list[nn.Parameter] = []  # normalization parameters, and biases of any layer
    quick: list[nn.Parameter] = []  # biases of normalization layers, at their own rate
    for module, name, parameter in trainable:
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
    scale = spec.backbone_lr_scale  # the head is no filter bank
    orthogonal = {"lr": spec.lr * scale, "lr_scale": scale, "weight_decay": 0.0, "orthogonal": True}
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
