"""Heat maps: what in an image speaks for a class, as seen at the layers of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..datasets import batch_size_for
from ..errors import UsageError, suggest
from ..networks.unwrap import unwrap
from .classes import Classes, check_classes, class_indices, rival_classes
from .closed_form import channel_weights
from .formulas import GRADIENT_FORMULAS, eigen_cam, weighted_sum
from .hooks import Pass, borrow, find_layers, forward, gradients_of, map_sizes, named_layers, no_map
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
    """Maps of the evidence for classes at layers of any network of images.

    One forward pass does for all layers and classes, and nothing is differentiated before the
    earliest of the layers or by a weight. Where the network ends in global pooling and a linear
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
        UsageError: layers, classes, method or images that do not fit the model; it says what does.
    """
    _check(images, method, against, batch_size)
    check_classes(classes, len(images))
    network = unwrap(model)
    like = next((p for p in network.parameters() if p.is_floating_point()), images)
    names = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
    if names == []:
        raise UsageError("layers is empty; name at least one, or leave it out for the last")
    if any(parameter.is_inference() for parameter in network.parameters()):
        raise UsageError(
            "the weights of the model were made in inference mode, where nothing can be "
            "differentiated; build or load the model outside of torch.inference_mode()"
        )
    batch_size = batch_size or batch_size_for(images, 128)
    parts = []
    with borrow(network, like.device):
        images = images.to(like.device, like.dtype)
        if images.is_inference():  # made in the caller's inference mode
            images = images.clone()
        chosen = find_layers(network, names, images[:1])
        for first in range(0, len(images), batch_size):
            rows = slice(first, first + batch_size)
            given = None if against is None else against[rows]
            asked = _Asked(method, classes, rows, given, batch_size)
            parts.append(_one_batch(network, images[rows], chosen, asked))
    maps = {name: torch.cat([part.maps[name] for part in parts]) for name in chosen}
    image_size = (images.shape[2], images.shape[3])
    told = sum(part.rivals_chosen for part in parts)
    extra = []
    if told and against is not None:
        extra.append(f"the class itself was given as `against` {told} times; its rival was taken")
    return Heatmaps(
        maps=maps,
        classes=torch.cat([part.classes for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        method=method,
        image_size=image_size,
        notes=reading_notes(maps, image_size, extra),
    )


@dataclass(frozen=True)
class _Asked:
    """What is wanted of one batch."""

    method: str
    classes: Classes
    rows: slice  # of the images, for classes given an image
    against: Tensor | None
    batch_size: int


@dataclass(frozen=True)
class _Part:
    """The result of one batch."""

    maps: dict[str, Tensor]
    classes: Tensor
    logits: Tensor
    rivals_chosen: int


def _one_batch(
    network: nn.Module, images: Tensor, layers: dict[str, nn.Module], asked: _Asked
) -> _Part:
    graph = asked.method in GRADIENT_FORMULAS
    done = forward(network, images, layers, graph=graph)
    if missing := [name for name in layers if name not in done.activations]:
        sizes = map_sizes(network, named_layers(network), images[:1])
        fault = f"layer {missing[0]!r} puts out no map (N, C, h, w){suggest(missing[0], sizes)}"
        raise no_map(network, fault, sizes)
    done.activations = {name: done.activations[name] for name in layers}
    logits = done.logits.detach().float()
    classes = class_indices(asked.classes, logits, asked.rows)  # (N, M)
    chosen = 0
    with torch.no_grad():
        if graph:
            cotangents = torch.nn.functional.one_hot(classes, logits.shape[1]).float()  # (N, M, K)
            if asked.method == "finer-cam":
                rivals, chosen = rival_classes(logits, classes, asked.against)
                cotangents -= torch.nn.functional.one_hot(rivals, logits.shape[1])
            with torch.autocast(images.device.type, enabled=False):
                maps = _by_gradient(done, cotangents.transpose(0, 1), asked.method)
        else:
            maps = _without_gradient(network, images, layers, done, classes, asked)
    maps = {name: values.contiguous() for name, values in maps.items()}
    return _Part(maps, classes, logits, chosen)


def _by_gradient(done: Pass, cotangents: Tensor, method: str) -> dict[str, Tensor]:
    """Maps (N, M, h, w) of each layer, from cotangents (M, N, K) of the logits."""
    if len(done.activations) == 1 and method in _LINEAR:
        weights = channel_weights(done, cotangents)
        if weights is not None:
            ((name, activations),) = done.activations.items()
            return {name: weighted_sum(activations.detach().float(), weights)}
    kept = {name: a.detach().float() for name, a in done.activations.items()}
    maps: dict[str, list[Tensor]] = {name: [] for name in kept}
    for m, cotangent in enumerate(cotangents):  # on a CPU faster than is_grads_batched
        gradients = gradients_of(done, cotangent, again=m < len(cotangents) - 1)
        for (name, activations), gradient in zip(kept.items(), gradients, strict=True):
            maps[name].append(GRADIENT_FORMULAS[method](activations, gradient.float()))
    return {name: torch.stack(values, dim=1) for name, values in maps.items()}


def _without_gradient(
    network: nn.Module,
    images: Tensor,
    layers: dict[str, nn.Module],
    done: Pass,
    classes: Tensor,
    asked: _Asked,
) -> dict[str, Tensor]:
    maps = {}
    logits = done.logits.float()
    for name, kept in done.activations.items():
        activations = kept.float()
        if asked.method == "eigen-cam":
            with torch.autocast(images.device.type, enabled=False):
                maps[name] = eigen_cam(activations)[:, None].expand(-1, classes.shape[1], -1, -1)
            continue
        # The network runs again in the caller's precision, as before, so that its logits compare.
        if asked.method == "score-cam":
            weights = score_weights(network, images, activations, batch_size=asked.batch_size)
        else:
            weights = ablation_weights(
                network, images, layers[name], logits=logits, channels=activations.shape[1]
            )
        of_classes = weights.gather(1, classes[..., None].expand(-1, -1, weights.shape[2]))
        with torch.autocast(images.device.type, enabled=False):
            maps[name] = weighted_sum(activations, of_classes)  # (N, M, C) -> (N, M, h, w)
    return maps


def _check(images: Tensor, method: str, against: Tensor | None, batch_size: int | None) -> None:
    if method not in METHODS:
        raise UsageError(
            f'there is no method "{method}"{suggest(str(method), METHODS)} '
            f"(valid: {', '.join(METHODS)})"
        )
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        what = (
            f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images)
        )
        raise UsageError(
            f"images are {what}; heat maps take float images (N, C, H, W), normalized as in "
            "training"
        )
    if images.numel() == 0:
        raise UsageError(f"images are empty, {tuple(images.shape)}; give at least one")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size = {batch_size}; it must be at least 1")
    if against is not None and method != "finer-cam":
        raise UsageError(f'against is for method "finer-cam", not "{method}"; leave it out')
    if against is not None:
        check_classes(against, len(images), name="against")
