"""Heat maps: where in an image the layers of a network find evidence for a class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets import batch_size_for
from ..errors import UsageError, suggest
from ..networks.unwrap import match_weights, unwrap
from .classes import Classes, class_indices, image_labels, parse_classes, rival_classes
from .closed_form import channel_weights
from .formulas import GRADIENT_FORMULAS, eigen_cam, weighted_sum
from .hooks import ForwardRecord, borrow, find_layers, forward, layer_gradients
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
    _check(images, method, against, batch_size)
    columns = parse_classes(classes, len(images))
    if against is not None:
        against = image_labels(against, len(images), name="against")
    return _in_batches(
        unwrap(model),
        images,
        layers,
        classes=columns,
        method=method,
        against=against,
        batch_size=batch_size or batch_size_for(images, 128),
    )


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
    layers: Sequence[str] | str | None,
    *,
    classes: Sequence[str | Tensor],
    method: str,
    against: Tensor | None,
    batch_size: int,
) -> Heatmaps:
    if any(parameter.is_inference() for parameter in network.parameters()):
        raise UsageError(
            "the weights of the model were made in inference mode, where nothing can be "
            "differentiated; build or load the model outside of torch.inference_mode()"
        )
    images = match_weights(images, network)
    parts: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []  # maps, classes, logits
    with borrow(network, images.device):
        images = images.clone() if images.is_inference() else images  # of the caller's mode
        modules = find_layers(network, layers, images[:1])
        for first in range(0, len(images), batch_size):
            rows = slice(first, first + batch_size)
            record = forward(network, images[rows], modules, graph=method in GRADIENT_FORMULAS)
            logits = record.logits.detach().float()
            targets = class_indices(classes, logits, rows)  # (n, M)
            if method in GRADIENT_FORMULAS:
                rivals = None if against is None else against[rows]
                maps = _by_gradient(record, targets, rivals, method)
            else:
                maps = _without_gradient(
                    network,
                    images[rows],
                    modules,
                    record=record,
                    classes=targets,
                    method=method,
                    batch_size=batch_size,
                )
            parts.append((maps, targets, logits))
    image_size = (images.shape[2], images.shape[3])
    maps = {name: torch.cat([part[name] for part, _, _ in parts]).contiguous() for name in modules}
    targets = torch.cat([part for _, part, _ in parts])
    notes = reading_notes(maps, image_size)
    if against is not None:
        replaced = int((targets == against[:, None].to(targets.device)).sum())
        note = f"`against` was the class itself {replaced} times; its nearest rival was taken"
        notes = [note, *notes] if replaced else notes
    logits = torch.cat([part for _, _, part in parts])
    return Heatmaps(maps, targets, logits, method, image_size, tuple(notes))


def _by_gradient(
    record: ForwardRecord, classes: Tensor, against: Tensor | None, method: str
) -> dict[str, Tensor]:
    """Maps (N, M, h, w) of each layer, from the gradients of the logits of `classes` (N, M)."""
    logits = record.logits.detach().float()
    cotangents = F.one_hot(classes, logits.shape[1]).float()  # (N, M, K)
    if method == "finer-cam":
        cotangents -= F.one_hot(rival_classes(logits, classes, against), logits.shape[1])
    cotangents = cotangents.transpose(0, 1)  # (M, N, K)
    kept = {name: a.detach().float() for name, a in record.activations.items()}
    maps: dict[str, list[Tensor]] = {name: [] for name in kept}
    with torch.autocast(logits.device.type, enabled=False):
        if len(kept) == 1 and method in _LINEAR:
            weights = channel_weights(record, cotangents)
            if weights is not None:
                return {name: weighted_sum(a, weights) for name, a in kept.items()}
        for m, cotangent in enumerate(cotangents):  # on a CPU faster than is_grads_batched
            gradients = layer_gradients(record, cotangent, again=m < len(cotangents) - 1)
            for (name, activations), gradient in zip(kept.items(), gradients, strict=True):
                maps[name].append(GRADIENT_FORMULAS[method](activations, gradient.float()))
    return {name: torch.stack(values, dim=1) for name, values in maps.items()}


def _without_gradient(
    network: nn.Module,
    images: Tensor,
    layers: dict[str, nn.Module],
    *,
    record: ForwardRecord,
    classes: Tensor,
    method: str,
    batch_size: int,
) -> dict[str, Tensor]:
    """Maps (N, M, h, w) of each layer; the network runs again in the caller's precision."""
    full_precision = torch.autocast(images.device.type, enabled=False)
    maps = {}
    for name, kept in record.activations.items():
        activations = kept.float()
        if method == "eigen-cam":
            with full_precision:
                maps[name] = eigen_cam(activations)[:, None].expand(-1, classes.shape[1], -1, -1)
            continue
        if method == "score-cam":
            weights = score_weights(network, images, activations, batch_size=batch_size)
        else:
            logits, channels = record.logits.float(), activations.shape[1]
            weights = ablation_weights(
                network, images, layers[name], logits=logits, channels=channels
            )
        class_weights = weights.gather(1, classes[..., None].expand(-1, -1, weights.shape[2]))
        with full_precision:
            maps[name] = weighted_sum(activations, class_weights)
    return maps
