"""Heat maps of two classes of many images, as arrays for sheets and the gallery."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cam.faithfulness import faithfulness
from ..cam.heatmaps import heatmaps
from ..cam.maps import Heatmaps
from ..datasets import Split, Statistics, batch_size_for
from ..datasets.augment import normalize
from ..figures import LayerHeatmap
from ..networks.unwrap import device_of
from ..recipe import Method
from ..records import Float32Array, IntArray, Predictions
from ..runs.gallery import area_resize

LayerMaps = dict[str, Float32Array]  # layer -> (R, 2, h, w), raw and signed

SLOW_METHODS = ("score-cam", "ablation-cam")  # many passes an image: not for thousands of images
FAITHFULNESS_STEPS = 10  # of its curves: twice as many cost twice the time
_FAITHFULNESS_IMAGES = 8  # at a time, as maps of all layers are as large as the image


def layer_maps(
    model: nn.Module,
    split: Split,
    stats: Statistics,
    classes: IntArray,
    *,
    layers: Sequence[str],
    method: Method,
    rows: IntArray | None = None,
    side: int | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> LayerMaps:
    """Compute maps of R images for two classes each, (R, 2, h, w) a layer, on the CPU.

    Values that are not finite become 0. The images are those at `rows` (R,), by default all. With
    `side`, larger maps are shrunk to so many cells a side, see `shrink_maps`. Finer-CAM tells each
    of the two classes from the other.
    """
    rows = np.arange(len(split)) if rows is None else rows
    batch = batch_size_for(split, 256)
    parts: dict[str, list[Float32Array]] = {layer: [] for layer in layers}
    for first in range(0, len(rows), batch):
        images = _normalized(model, split, stats, rows[first : first + batch])
        both = torch.from_numpy(classes[first : first + batch]).to(images.device)  # (n, 2)
        for layer, maps in _two_classes(model, images, both, layers, method).items():
            values = maps.nan_to_num(0.0, 0.0, 0.0).cpu().numpy()
            parts[layer].append(values if side is None else shrink_maps(values, side))
        on_batch(min(first + batch, len(rows)))
    return {layer: np.concatenate(maps) for layer, maps in parts.items()}


def shrink_maps(maps: Float32Array, side: int) -> Float32Array:
    """Return maps (..., h, w) of at most `side` cells a side: means of their positive part."""
    return maps if max(maps.shape[-2:]) <= side else area_resize(np.maximum(maps, 0), side)


def faithfulness_areas(
    model: nn.Module,
    split: Split,
    stats: Statistics,
    classes: IntArray,
    maps: Mapping[str, Float32Array],
    *,
    rows: IntArray | None = None,
) -> dict[str, Float32Array]:
    """Return the areas under the deletion and the insertion curve of each layer, (R, 2).

    They belong to `classes` (R,) and the first of the two maps. Images and maps are those of
    `layer_maps`. See `cam.faithfulness`.
    """
    rows = np.arange(len(split)) if rows is None else rows
    if not len(rows):
        return {layer: np.zeros((0, 2), dtype=np.float32) for layer in maps}
    size, parts = (split.shape[2], split.shape[3]), list[Tensor]()
    for first in range(0, len(rows), _FAITHFULNESS_IMAGES):
        part = slice(first, first + _FAITHFULNESS_IMAGES)
        images = _normalized(model, split, stats, rows[part])
        # The layers as maps of one size, so that they share what they have in common.
        large = [
            F.interpolate(torch.from_numpy(m[part, :1]), size, mode="bilinear", align_corners=False)
            for m in maps.values()
        ]
        heats = torch.cat(large, dim=1).to(images.device)  # (r, L, H, W)
        targets = torch.from_numpy(classes[part])[:, None].expand(-1, len(maps)).to(images.device)
        heat = Heatmaps({"": heats}, targets, images.new_zeros(len(images), 0), "", size, ())
        curves = faithfulness(model, images, heat, steps=FAITHFULNESS_STEPS)
        areas = [curves.deletion - curves.empty, curves.insertion - curves.empty]
        parts.append(torch.stack(areas, dim=2).cpu())
    return dict(zip(maps, torch.cat(parts).numpy().swapaxes(0, 1), strict=True))


def layer_heatmaps(
    maps: LayerMaps, areas: Mapping[str, Float32Array] | None = None, rows: slice = slice(None)
) -> list[LayerHeatmap]:
    """Return the maps of some rows as figures take them, with their areas if there are any."""
    return [
        LayerHeatmap(layer, values[rows], areas[layer][rows] if areas else None)
        for layer, values in maps.items()
    ]


def areas_table(
    predictions: Predictions, rows: IntArray, areas: LayerMaps, method: str
) -> list[list[object]]:
    """Return a header, then the areas of the predicted class for each row and layer."""
    table: list[list[object]] = [["id", "method", "layer", "class", "deletion", "insertion"]]
    for i, row in enumerate(rows.tolist()):
        predicted = predictions.classes[predictions.preds[row]]
        for layer, values in areas.items():
            pair = [round(float(value), 4) for value in values[i]]
            table.append([predictions.ids[row], method, layer, predicted, *pair])
    return table


def predicted_and_other(predictions: Predictions) -> IntArray:
    """Return the two classes that get maps, (N, 2): the predicted, and the true or the runner-up.

    The runner-up has the second largest logit. It takes the place of the true class where that is
    the predicted one, or not known.
    """
    preds = predictions.preds
    logits = predictions.logits.copy()
    logits[np.arange(len(predictions)), preds] = -np.inf
    no_other = predictions.correct | (predictions.labels < 0)
    return np.stack([preds, np.where(no_other, logits.argmax(axis=1), predictions.labels)], axis=1)


def _normalized(model: nn.Module, split: Split, stats: Statistics, rows: IntArray) -> Tensor:
    """(n, C, H, W) on the device of the model."""
    device = device_of(model, split.device)
    return normalize(split.images_at(torch.from_numpy(rows)).to(device), stats)


def _two_classes(
    model: nn.Module, images: Tensor, both: Tensor, layers: Sequence[str], method: Method
) -> dict[str, Tensor]:
    """Maps (n, 2, h, w) for the two classes of each image."""
    one, other = both[:, 0], both[:, 1]
    if method != "finer-cam":
        return heatmaps(model, images, layers, (one, other), method).maps
    a = heatmaps(model, images, layers, one, method, against=other).maps
    b = heatmaps(model, images, layers, other, method, against=one).maps
    return {layer: torch.cat([a[layer], b[layer]], dim=1) for layer in layers}
