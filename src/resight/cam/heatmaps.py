"""Heat maps: where in an image the layers of a network find evidence for a class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets import batch_size_for
from ..errors import UsageError, suggest
from ..networks.unwrap import check_differentiable, match_weights, unwrap
from .classes import (
    Classes,
    class_indices,
    image_labels,
    list_note,
    parse_classes,
    rival_classes,
)
from .closed_form import channel_weights
from .formulas import GRADIENT_FORMULAS, eigen_cam, weighted_sum
from .hooks import ClassLogits, ForwardRecord, borrow, forward, layer_gradients
from .layers import Layer, find_layers, layer_grids, recorders
from .layouts import Grid, LayerOutputs, Layout, check_layout
from .maps import Heatmaps, reading_notes
from .perturbation import ablation_weights, score_weights

METHODS = (*GRADIENT_FORMULAS, "eigen-cam", "score-cam", "ablation-cam")

_LINEAR = ("grad-cam", "finer-cam")  # need the sum of the gradient over the map only


def heatmaps(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[Layer] | Layer | None = None,
    classes: Classes = "predicted",
    method: str = "grad-cam",
    *,
    layout: Layout | None = None,
    multi_label: bool = False,
    against: Tensor | None = None,
    batch_size: int | None = None,
) -> Heatmaps:
    """Return maps of the evidence for classes at layers of any image classifier.

    One forward pass serves all layers and classes, and no gradient is computed of a weight or of a
    layer before the earliest one named. The model runs in evaluation mode and comes back as it was:
    its modes, gradients and statistics, also after an exception.

    Args:
        model: returns logits (N, K). Wrapped by DDP or torch.compile it runs bare and uncompiled.
        images: (N, C, H, W), normalized as in training.
        layers: names as in `model.named_modules()`, the modules themselves, or indices of an
            `nn.Sequential`; None takes the last layer whose map reaches the logits.
        classes: "predicted", "all", a class index, a label for each image (N,), or a sequence of
            these: ("predicted", labels) gives M = 2 maps of each image. Of a network with one
            logit z, index 0 is what it speaks for, which "all" and labels call class 1.
        method: "grad-cam", "grad-cam++", "hirescam", "layercam", "xgrad-cam", "eigen-cam",
            "score-cam", "ablation-cam" or "finer-cam".
        layout: of the layers: "channels_first" (N, C, h, w), "channels_last" (N, h, w, C) or
            "tokens" (N, T, C), up to 5 of them before the cells; None recognizes it.
        multi_label: each class has a probability of its own, the sigmoid of its logit.
        against: finer-cam only: (N,) the class to tell from, by default that of the nearest logit.
        batch_size: images in one pass; by default about as many pixels as 128 images of 32 px.

    Raises:
        UsageError: layers, classes, method or images do not fit; the message lists what is valid.
    """
    _check(images, method, against, batch_size)
    maps = _in_batches(
        unwrap(model),
        images,
        layers,
        layout=check_layout(layout),
        classes=parse_classes(classes, len(images)),
        method=method,
        against=None if against is None else image_labels(against, len(images), name="against"),
        batch_size=batch_size or batch_size_for(images, 128),
    )
    notes = tuple(filter(None, (list_note(classes, len(images)), *maps.notes)))
    return replace(maps, notes=notes, multi_label=multi_label or maps.multi_label)


def _check(images: Tensor, method: str, against: Tensor | None, batch_size: int | None) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        kind = (
            f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images)
        )
        raise UsageError(
            f"images are {kind}; heat maps take float images (N, C, H, W), normalized as in "
            "training"
        )
    if images.numel() == 0:
        raise UsageError(f"images are empty, {tuple(images.shape)}; give at least one")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size = {batch_size}; it must be at least 1")
    if method not in METHODS:
        raise UsageError(
            f'there is no method "{method}"{suggest(str(method), METHODS)} '
            f"(valid: {', '.join(METHODS)})"
        )
    if against is not None and method != "finer-cam":
        raise UsageError(f'against is for method "finer-cam", not "{method}"; leave it out')


def _in_batches(
    network: nn.Module,
    images: Tensor,
    layers: Sequence[Layer] | Layer | None,
    *,
    layout: Layout | None,
    classes: Sequence[str | int | Tensor],
    method: str,
    against: Tensor | None,
    batch_size: int,
) -> Heatmaps:
    _check_network(network)
    images = match_weights(images, network)
    parts: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []  # maps, classes, logits
    grids: dict[str, Grid] = {}
    with borrow(network, images.device):
        images = images.clone() if images.is_inference() else images  # of the caller's mode
        modules = find_layers(network, layers, images[:1], layout)
        outputs = LayerOutputs(tuple(images[:batch_size].shape), layout)
        for first in range(0, len(images), batch_size):
            rows = slice(first, first + batch_size)
            hooks, graph = [] if grids else recorders(network, outputs), method in GRADIENT_FORMULAS
            record = forward(network, images[rows], modules, graph=graph, hooks=hooks)
            grids = grids or layer_grids(network, outputs, modules)
            _check_rivals(record.classes, method)
            logits = record.logits.detach().float()
            targets = class_indices(classes, logits, rows, single=record.classes.single)  # (n, M)
            if graph:
                rivals = None if against is None else against[rows]
                maps = _by_gradient(record, grids, targets, against=rivals, method=method)
            else:
                maps = _without_gradient(
                    network,
                    images[rows],
                    modules,
                    grids=grids,
                    record=record,
                    classes=targets,
                    method=method,
                    batch_size=batch_size,
                )
            parts.append((maps, targets, logits))
    image_size = (images.shape[2], images.shape[3])
    maps = {name: torch.cat([part[name] for part, _, _ in parts]).contiguous() for name in modules}
    targets = torch.cat([part for _, part, _ in parts])
    logits = torch.cat([part for _, _, part in parts])
    notes = _notes(record.classes, grids, targets, against) + reading_notes(maps, image_size)
    return Heatmaps(
        maps, targets, logits, method, image_size, tuple(notes), multi_label=record.classes.single
    )


def _check_network(network: nn.Module) -> None:
    if isinstance(network, torch.jit.ScriptModule):
        raise UsageError(
            f"the {type(network).__name__} was scripted or traced, and its layers cannot be looked "
            "into; give the module that it was made of"
        )
    check_differentiable(network)


def _check_rivals(classes: ClassLogits, method: str) -> None:
    if classes.single and method == "finer-cam":
        raise UsageError("finer-cam tells two classes apart, but the model has one logit")


def _notes(
    classes: ClassLogits, grids: Mapping[str, Grid], targets: Tensor, against: Tensor | None
) -> list[str]:
    """How the network's outputs, its layers and `against` were taken."""
    notes = [classes.note, *(grid.note(name) for name, grid in grids.items())]
    if classes.single:
        notes.append("one logit z: class 1 is what it speaks for, class 0 the rest; logits (-z, z)")
    same = 0 if against is None else int((targets == against.to(targets)[:, None]).sum())
    if same:
        notes.append(f"`against` was the class itself {same} times; its nearest rival was taken")
    return [note for note in notes if note]


def _by_gradient(
    record: ForwardRecord,
    grids: Mapping[str, Grid],
    classes: Tensor,
    *,
    against: Tensor | None,
    method: str,
) -> dict[str, Tensor]:
    """Maps (N, M, h, w) of each layer, from the gradients of the logits of `classes` (N, M)."""
    logits = record.logits.detach().float()
    cotangents = F.one_hot(classes, logits.shape[1]).float()  # (N, M, K)
    if method == "finer-cam":
        cotangents -= F.one_hot(rival_classes(logits, classes, against), logits.shape[1])
    cotangents = cotangents.transpose(0, 1)  # (M, N, K)
    kept = {n: grids[n].map_of(a.detach()).float() for n, a in record.activations.items()}
    maps: dict[str, list[Tensor]] = {name: [] for name in kept}
    with torch.autocast(logits.device.type, enabled=False):
        if len(kept) == 1 and method in _LINEAR:
            weights = channel_weights(record, cotangents, *grids.values())
            if weights is not None:
                return {name: weighted_sum(a, weights) for name, a in kept.items()}
        for m, cotangent in enumerate(cotangents):  # on a CPU faster than is_grads_batched
            gradients = layer_gradients(record, cotangent, again=m < len(cotangents) - 1)
            for (name, activations), gradient in zip(kept.items(), gradients, strict=True):
                gradient = grids[name].map_of(gradient).float()
                maps[name].append(GRADIENT_FORMULAS[method](activations, gradient))
    return {name: torch.stack(values, dim=1) for name, values in maps.items()}


def _without_gradient(
    network: nn.Module,
    images: Tensor,
    layers: Mapping[str, nn.Module],
    *,
    grids: Mapping[str, Grid],
    record: ForwardRecord,
    classes: Tensor,
    method: str,
    batch_size: int,
) -> dict[str, Tensor]:
    """Maps (N, M, h, w) of each layer; the network runs again in the caller's precision."""
    full_precision = torch.autocast(images.device.type, enabled=False)
    maps = {}
    for name, kept in record.activations.items():
        activations = grids[name].map_of(kept).float()
        if method == "eigen-cam":
            with full_precision:
                maps[name] = eigen_cam(activations)[:, None].expand(-1, classes.shape[1], -1, -1)
            continue
        if method == "score-cam":
            weights = score_weights(network, images, activations, batch_size=batch_size)
        else:
            weights = ablation_weights(
                network,
                images,
                layers[name],
                grid=grids[name],
                logits=record.logits.float(),
                channels=activations.shape[1],
            )
        class_weights = weights.gather(1, classes[..., None].expand(-1, -1, weights.shape[2]))
        with full_precision:
            maps[name] = weighted_sum(activations, class_weights)
    return maps
