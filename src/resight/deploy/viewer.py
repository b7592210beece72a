"""What the local page shows of a picture: prediction, heat maps and similar training images."""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..cam.layers import default_layers
from ..datasets import Dataset, Split
from ..datasets.originals import display_images
from ..datasets.readers.images import read_sources
from ..datasets.splits import train_and_val
from ..errors import ResightError, UsageError
from ..events import OnEvent, Progress
from ..figures.heat import blend_heatmap, positive_map
from ..interpret.layer_maps import layer_heatmaps, layer_maps, predicted_and_other
from ..interpret.neighbors import nearest_neighbors
from ..metrics.confidence import with_temperature
from ..networks.unwrap import device_of
from ..records import ImageArray, Predictions, evenly_spaced
from ..runs.checkpoint import ModelInfo, load_model
from ..runs.inference import predict_images
from ..runs.run import Run
from ..training.device import pick_device
from ..training.features import features
from ..training.setup import load_dataset

MAX_CANDIDATES = 4_000  # training images to search for neighbors: a minute for ResNet-18 on a CPU
NUM_NEIGHBORS = 8
NUM_CLASSES = 5  # the likeliest, with their probabilities
_CHUNK = 200  # images between two reports of progress


@dataclass(frozen=True)
class NeighborIndex:
    """The training images to search, and their features in the network; the text says which."""

    images: Split
    features: Tensor  # (M, D)
    text: str


@dataclass(frozen=True)
class Viewer:
    """A trained network, and all that it takes to show what it makes of a picture."""

    model: nn.Module
    info: ModelInfo
    layers: tuple[str, ...]  # of the heat maps; none where the network has no layer with a map
    neighbors: NeighborIndex | str  # or the reason why there are none


def open_viewer(
    run: Run,
    *,
    data: Dataset | str | Path | None,
    model: nn.Module | None,
    device: str,
    on_event: OnEvent,
) -> Viewer:
    """Load the network of a run, and its training images if they are at hand.

    Nothing is downloaded.

    Raises:
        UsageError: `data` is not the data of the run.
        ResightError: the run has no weights, or they are damaged.
    """
    network, info = load_model(
        run.folder, model, pick_device(device), allow_import=run.allow_import
    )
    shape = (info.channels, info.image_size, info.image_size)
    layers = info.recipe.explain.layers or default_layers(network, shape)
    try:
        neighbors: NeighborIndex | str = _index(run, network, info, data, on_event)
    except ResightError as error:
        if data is not None:
            raise
        neighbors = f"No similar training images: {error}"
    return Viewer(network, info, layers, neighbors)


def _index(
    run: Run,
    model: nn.Module,
    info: ModelInfo,
    data: Dataset | str | Path | None,
    on_event: OnEvent,
) -> NeighborIndex:
    dataset = load_dataset(info.recipe, data, offline=True, on_event=on_event)
    if run.summary is not None and dataset.fingerprint != run.summary.data.fingerprint:
        raise UsageError(
            f"the data in {dataset.name} is not what the run was trained on; give the same data"
        )
    train, _ = train_and_val(dataset, info.recipe)
    rows = torch.from_numpy(evenly_spaced(len(train), MAX_CANDIDATES))
    images, parts = train.select(rows), []
    for first in range(0, len(rows), _CHUNK):
        part = images.select(torch.arange(first, min(first + _CHUNK, len(rows))))
        part = part.to(device_of(model, part.device))
        parts.append(features(model, part, info.stats, training=info.recipe.training).cpu())
        on_event(Progress("features of the training images", first + len(part), len(rows)))
    among = f"{len(rows):,} of {len(train):,}" if len(rows) < len(train) else f"{len(train):,}"
    text = f"The most similar of {among} training images, by what the last linear layer gets."
    return NeighborIndex(images, torch.cat(parts), text)


def inspect_picture(viewer: Viewer, content: bytes) -> dict[str, Any]:
    """Return what the page shows of a picture, given as the content of its file, fit for JSON.

    Raises:
        UsageError: it is no picture that can be read, or too small.
        ResightError: an output of the network is not finite.
    """
    info = viewer.info
    picture = read_sources(
        ["this file"],
        [content],
        image_size=info.image_size,
        channels=info.channels,
        resize=info.recipe.data.resize,
    )
    predictions = predict_images(viewer.model, picture, info)
    predictions = with_temperature(predictions, info.temperature)
    [both] = predicted_and_other(predictions)
    [shown] = display_images(picture).pictures
    probs = predictions.probs[0]
    ranking = (-probs).argsort(kind="stable")[:NUM_CLASSES]
    return {
        "picture": data_uri(shown),
        "seen": data_uri(picture.images[0].permute(1, 2, 0).numpy()),
        "classes": [{"name": info.classes[k], "probability": float(probs[k])} for k in ranking],
        "rows": [{"name": info.classes[k], "probability": float(probs[k])} for k in both],
        "layers": _layers(viewer, picture, predictions, shown),
        "method": info.recipe.explain.method,
        **_neighbors(viewer, picture),
    }


def _layers(
    viewer: Viewer, picture: Split, predictions: Predictions, shown: ImageArray
) -> list[dict[str, Any]]:
    """The heat maps of both top classes over the picture, for each layer."""
    if not viewer.layers:
        return []
    maps = layer_maps(
        viewer.model,
        picture,
        viewer.info.stats,
        predicted_and_other(predictions),
        layers=viewer.layers,
        method=viewer.info.recipe.explain.method,
    )
    return [
        {
            "name": heat.name,
            "coarse": heat.coarse,
            "maps": [data_uri(blend_heatmap(shown, one)) for one in positive_map(heat.maps[0])],
        }
        for heat in layer_heatmaps(maps)
    ]


def _neighbors(viewer: Viewer, picture: Split) -> dict[str, Any]:
    """The most similar training images, or the reason why there are none."""
    index, info = viewer.neighbors, viewer.info
    if isinstance(index, str):
        return {"neighbors": [], "among": index}
    on_device = picture.to(device_of(viewer.model, picture.device))
    query = features(viewer.model, on_device, info.stats, training=info.recipe.training).cpu()
    rows, cosines = nearest_neighbors(query, index.features, NUM_NEIGHBORS)
    images = index.images.select(rows[0])
    neighbors = [
        {"picture": data_uri(shown), "name": info.classes[label], "id": id, "cosine": cosine}
        for shown, label, id, cosine in zip(
            display_images(images).pictures,
            images.labels.tolist(),
            images.ids,
            cosines[0].tolist(),
            strict=True,
        )
    ]
    return {"neighbors": neighbors, "among": index.text}


def data_uri(picture: ImageArray) -> str:
    """Return a picture (H, W, 1 or 3) uint8 as a PNG in an address, which needs no other file."""
    buffer = BytesIO()
    Image.fromarray(
        np.ascontiguousarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)
    ).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
