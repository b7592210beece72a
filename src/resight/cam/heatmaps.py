"""Heat maps: where in an image the layers of a network find evidence for a class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets import batch_size_for
from ..errors import UsageError, suggest
from ..networks.unwrap import unwrap
from .classes import Classes, check_classes, class_indices, rival_classes
from .closed_form import channel_weights
from .formulas import GRADIENT_FORMULAS, eigen_cam, weighted_sum
from .hooks import (
    ForwardRecord,
    borrow,
    find_layers,
    forward,
    layer_gradients,
    map_sizes,
    named_layers,
    no_map,
)
from .maps import Heatmaps, reading_notes
from .perturbation import ablation_weights, score_weights

METHODS = (*GRADIENT_FORMULAS, "eigen-cam", "score-cam", "ablation-cam")

_LINEAR = ("grad-cam", "finer-cam")  # need the sum of the gradient over the map only


def heatmaps(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str] | str | None = None,
    classes: Classes = "predicted",
    method: str = "grad-cam",
    *,
    against: Tensor | None = None,
    batch_size: int | None = None,
) -> Heatmaps:
    """Return maps of the evidence for classes at layers of any image classifier.

    One forward pass serves all layers and classes, and no gradient is computed of a weight or of a
    layer before the earliest one named. Where the network ends in global pooling and a linear
    layer, Grad-CAM at the last layer needs no backward pass. The model runs in evaluation mode and
    comes back as it was: its modes, gradients and statistics, also after an exception.

    Args:
        model: returns logits (N, K). Wrapped by DDP or torch.compile it runs bare and uncompiled.
        images: (N, C, H, W), normalized as in training.
        layers: names as in `model.named_modules()`; None takes the last layer with a map.
        classes: "predicted", "all", a class index, a label for each image (N,), or a sequence of
            these: ("predicted", labels) gives M = 2 maps of each image.
        method: "grad-cam", "grad-cam++", "hirescam", "layercam", "xgrad-cam", "eigen-cam",
            "score-cam", "ablation-cam" or "finer-cam".
        against: finer-cam only: (N,) the class to tell from. Without it, and where it is the class
            itself, the class with the nearest logit.
        batch_size: images in one pass; by default about as many pixels as 128 images of 32 px.

    Raises:
        UsageError: layers, classes, method or images do not fit; the message lists what is valid.
    """
    _check_images(images, batch_size)
    _check_request(method, classes, against, len(images))
    names = _layer_names(layers)
    network = unwrap(model)
    _check_weights(network)
    like = next((p for p in network.parameters() if p.is_floating_point()), images)
    batch_size = batch_size or batch_size_for(images, 128)
    parts = []
    with borrow(network, like.device):
        images = images.to(like.device, like.dtype)
        images = images.clone() if images.is_inference() else images  # of the caller's mode
        modules = find_layers(network, names, images[:1])
        for first in range(0, len(images), batch_size):
            rows = slice(first, first + batch_size)
            rivals = None if against is None else against[rows]
            request = _Request(method, classes, rows, rivals, batch_size)
            parts.append(_one_batch(network, images[rows], modules, request))
    return _join(parts, method, (images.shape[2], images.shape[3]))


def _layer_names(layers: Sequence[str] | str | None) -> list[str] | None:
    names = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
    if names == []:
        raise UsageError("layers is empty; name at least one, or leave it out for the last layer")
    return names


@dataclass(frozen=True)
class _Request:
    """The maps to make of one batch."""

    method: str
    classes: Classes
    rows: slice  # of the batch among all images
    against: Tensor | None
    batch_size: int


@dataclass(frozen=True)
class _BatchMaps:
    """The maps of one batch."""

    maps: dict[str, Tensor]
    classes: Tensor
    logits: Tensor
    num_replaced: int  # times that `against` was the class itself


def _join(parts: Sequence[_BatchMaps], method: str, image_size: tuple[int, int]) -> Heatmaps:
    maps = {name: torch.cat([part.maps[name] for part in parts]) for name in parts[0].maps}
    replaced = sum(part.num_replaced for part in parts)
    note = f"`against` was the class itself {replaced} times; its nearest rival was taken"
    return Heatmaps(
        maps=maps,
        classes=torch.cat([part.classes for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        method=method,
        image_size=image_size,
        notes=reading_notes(maps, image_size, [note] if replaced else []),
    )


def _one_batch(
    network: nn.Module, images: Tensor, layers: dict[str, nn.Module], request: _Request
) -> _BatchMaps:
    graph = request.method in GRADIENT_FORMULAS
    record = forward(network, images, layers, graph=graph)
    if missing := [name for name in layers if name not in record.activations]:
        sizes = map_sizes(network, named_layers(network), images[:1])
        problem = f"layer {missing[0]!r} puts out no map (N, C, h, w){suggest(missing[0], sizes)}"
        raise no_map(network, problem, sizes)
    record.activations = {name: record.activations[name] for name in layers}
    logits = record.logits.detach().float()
    classes = class_indices(request.classes, logits, request.rows)  # (N, M)
    replaced = 0
    with torch.no_grad():
        if graph:
            cotangents = F.one_hot(classes, logits.shape[1]).float()  # (N, M, K)
            if request.method == "finer-cam":
                rivals, replaced = rival_classes(logits, classes, request.against)
                cotangents -= F.one_hot(rivals, logits.shape[1])
            with torch.autocast(images.device.type, enabled=False):
                maps = _by_gradient(record, cotangents.transpose(0, 1), request.method)
        else:
            maps = _without_gradient(network, images, layers, record, classes, request)
    maps = {name: values.contiguous() for name, values in maps.items()}
    return _BatchMaps(maps, classes, logits, replaced)


def _by_gradient(record: ForwardRecord, cotangents: Tensor, method: str) -> dict[str, Tensor]:
    """Maps (N, M, h, w) of each layer, from cotangents (M, N, K) of the logits."""
    if len(record.activations) == 1 and method in _LINEAR:
        weights = channel_weights(record, cotangents)
        if weights is not None:
            ((name, activations),) = record.activations.items()
            return {name: weighted_sum(activations.detach().float(), weights)}
    kept = {name: a.detach().float() for name, a in record.activations.items()}
    maps: dict[str, list[Tensor]] = {name: [] for name in kept}
    for m, cotangent in enumerate(cotangents):  # on a CPU faster than is_grads_batched
        gradients = layer_gradients(record, cotangent, again=m < len(cotangents) - 1)
        for (name, activations), gradient in zip(kept.items(), gradients, strict=True):
            maps[name].append(GRADIENT_FORMULAS[method](activations, gradient.float()))
    return {name: torch.stack(values, dim=1) for name, values in maps.items()}


def _without_gradient(
    network: nn.Module,
    images: Tensor,
    layers: dict[str, nn.Module],
    record: ForwardRecord,
    classes: Tensor,
    request: _Request,
) -> dict[str, Tensor]:
    maps = {}
    logits = record.logits.float()
    for name, kept in record.activations.items():
        activations = kept.float()
        if request.method == "eigen-cam":
            with torch.autocast(images.device.type, enabled=False):
                maps[name] = eigen_cam(activations)[:, None].expand(-1, classes.shape[1], -1, -1)
            continue
        # The network runs again in the caller's precision, so that its logits can be compared.
        if request.method == "score-cam":
            weights = score_weights(network, images, activations, batch_size=request.batch_size)
        else:
            weights = ablation_weights(
                network, images, layers[name], logits=logits, channels=activations.shape[1]
            )
        class_weights = weights.gather(1, classes[..., None].expand(-1, -1, weights.shape[2]))
        with torch.autocast(images.device.type, enabled=False):
            maps[name] = weighted_sum(activations, class_weights)  # (N, M, C) -> (N, M, h, w)
    return maps


def _check_images(images: Tensor, batch_size: int | None) -> None:
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


def _check_request(method: str, classes: Classes, against: Tensor | None, n: int) -> None:
    if method not in METHODS:
        raise UsageError(
            f'there is no method "{method}"{suggest(str(method), METHODS)} '
            f"(valid: {', '.join(METHODS)})"
        )
    if against is not None and method != "finer-cam":
        raise UsageError(f'against is for method "finer-cam", not "{method}"; leave it out')
    if against is not None:
        check_classes(against, n, name="against")
    check_classes(classes, n)


def _check_weights(network: nn.Module) -> None:
    if any(parameter.is_inference() for parameter in network.parameters()):
        raise UsageError(
            "the weights of the model were made in inference mode, where nothing can be "
            "differentiated; build or load the model outside of torch.inference_mode()"
        )
