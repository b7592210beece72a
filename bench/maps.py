"""Which heat maps can say where? Methods and layers side by side, for the default of `explain`.

    python bench/maps.py RUN [RUN ...] --data PATH_OR_NAME --out FILE.jsonl   # CIFAR-10 runs

For each run, method and layer, and for two ways to combine all layers, a line with:

- deletion and insertion of the predicted class, less its probability in an empty image; and their
  gap, which does not depend on the empty image;
- head, all: Spearman's rank correlation of the maps before and after the weights of the head, or of
  the whole network, are shuffled. A map that depends on what was learned has no correlation left;
- halves: the left half of an image of one class beside the right half of one of another. The map of
  a class should have its maximum in the half of that class; chance is 50 %;
- quadrant: an image at half its size, pasted into a corner of an image of another class. The
  maximum should fall into that corner; chance is 25 %. Only images count whose class gains at least
  0.1 by the pasting.

A combination is taken of the maps of all layers, each divided by its maximum and enlarged to the
image: their mean, or the product of their positive parts.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resight
from randomization import correlation, shuffle
from resight.cam.layers import default_layers
from resight.datasets import Split
from resight.datasets.augment import normalize
from resight.runs.checkpoint import ModelInfo, load_model

METHODS = ("grad-cam", "layercam", "hirescam", "grad-cam++")
Maps = dict[str, Tensor]  # layer or combination -> (N, h, w), signed


def class_maps(model: nn.Module, images: Tensor, labels: Tensor, method: str) -> Maps:
    """Return the maps of one class for each image, at each default layer and combined."""
    names = default_layers(model, images.shape[1:])
    maps = {
        name: values[:, 0]
        for name, values in resight.heatmaps(model, images, names, labels, method).maps.items()
    }
    each = [_enlarged(values, images) for values in maps.values()]
    each = [values / values.amax((1, 2), keepdim=True).clamp(min=1e-12) for values in each]
    stacked = torch.stack(each)  # (L, N, H, W)
    last = torch.stack(each[-2:])
    return {
        **maps,
        "mean of all": stacked.mean(0),
        "product of all": stacked.relu().prod(0),
        "mean of last two": last.mean(0),
        "product of last two": last.relu().prod(0),
    }


def _enlarged(maps: Tensor, images: Tensor) -> Tensor:
    size = (images.shape[2], images.shape[3])
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def areas(model: nn.Module, images: Tensor, labels: Tensor, maps: Maps) -> dict[str, Any]:
    """Return mean deletion and insertion of the class of each image, less that of no image."""
    heat = resight.heatmaps(model, images[:1], classes=labels[:1])
    figures = {}
    for name, values in maps.items():
        one = dataclasses.replace(heat, maps={name: values[:, None]}, classes=labels[:, None])
        curves = resight.faithfulness(model, images, one)
        low, high = (curves.deletion - curves.empty), (curves.insertion - curves.empty)
        figures[name] = {
            "deletion": float(low.mean()),
            "insertion": float(high.mean()),
            "gap": float((high - low).mean()),
        }
    return figures


def halves(test: Split, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures of two halves, the class of one half (N,), and where it is (N, H, W)."""
    a, b = _pairs(test, generator, count)
    pictures, middle = test.images_at(a), test.shape[-1] // 2
    pictures[..., middle:] = test.images_at(b)[..., middle:]
    is_left = torch.rand(count, generator=generator) < 0.5
    where = torch.zeros(count, *test.shape[2:], dtype=torch.bool)
    where[:, :, :middle] = is_left[:, None, None]
    where[:, :, middle:] = ~is_left[:, None, None]
    return pictures, torch.where(is_left, test.labels[a], test.labels[b]), where


def quadrants(test: Split, generator: torch.Generator, count: int) -> tuple[Tensor, ...]:
    """Return pictures with a pasted object, its class, where it is, and those without it."""
    a, b = _pairs(test, generator, count)
    before, half = test.images_at(a), test.shape[-1] // 2
    small = F.avg_pool2d(test.images_at(b).float(), 2).round().byte()
    pictures, where = before.clone(), torch.zeros(count, *test.shape[2:], dtype=torch.bool)
    for row, corner in enumerate(torch.randint(4, (count,), generator=generator).tolist()):
        down, right = half * (corner // 2), half * (corner % 2)
        part = (..., slice(down, down + half), slice(right, right + half))
        pictures[row][part] = small[row]
        where[row][part] = True
    return pictures, test.labels[b], where, before


def _pairs(test: Split, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Return rows of `count` pairs of images of different classes."""
    a, b = (torch.randint(len(test), (4 * count,), generator=generator) for _ in range(2))
    differ = (test.labels[a] != test.labels[b]).nonzero().flatten()[:count]
    return a[differ], b[differ]


def hits(maps: Tensor, where: Tensor) -> Tensor:
    """Return whether the maximum of each map (N, h, w) lies where it should (N, H, W)."""
    size = (where.shape[1], where.shape[2])
    large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
    return where.flatten(1).gather(1, large.flatten(1).argmax(1, keepdim=True))[:, 0]


class Network:
    """A run's network, and pictures as it takes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: ModelInfo
        self.model, self.info = load_model(folder, None, torch.device("cpu"), allow_import=True)
        self.model.eval()

    def inputs(self, pictures: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> normalized, at the size that the network was trained with."""
        if pictures.shape[-1] != self.info.image_size:
            size = (self.info.image_size,) * 2
            pictures = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
            pictures = pictures.round().clamp(0, 255).byte()
        return normalize(pictures, self.info.stats)

    def probability(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Return the probability of each label, (N,)."""
        with torch.inference_mode():
            probs: Tensor = self.model(self.inputs(pictures)).softmax(1)
            return probs.gather(1, labels[:, None])[:, 0]


def measure(folder: Path, test: Split, images: int, points: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of a run, a method and layer at a time."""
    network, generator = Network(folder), torch.Generator().manual_seed(0)
    model, inputs = network.model, network.inputs(test.images_at(slice(images)))
    with torch.inference_mode():
        preds = model(inputs).argmax(1)
    pasted, objects, corner, before = quadrants(test, generator, 3 * points)
    gain = network.probability(pasted, objects) - network.probability(before, objects)
    seen = (gain >= 0.1).nonzero().flatten()[:points]
    mixed, sides, half = halves(test, generator, points)
    head, whole = Network(folder), Network(folder)
    shuffle([m for m in head.model.modules() if isinstance(m, nn.Linear)][-1], generator)
    shuffle(whole.model, generator)
    for method in (*METHODS, "random"):

        def maps_of(model: nn.Module, images: Tensor, labels: Tensor, name: str = method) -> Maps:
            if name != "random":
                return class_maps(model, images, labels, name)
            shape = resight.heatmaps(model, images[:1]).maps.popitem()[1].shape[2:]
            return {"7x7": torch.rand(len(images), *shape, generator=generator)}

        maps = maps_of(model, inputs, preds)
        result: Mapping[str, dict[str, Any]] = areas(model, inputs, preds, maps)
        for key, other in (("head", head), ("all", whole)):
            for name, values in maps_of(other.model, inputs, preds).items():
                result[name][key] = correlation(maps[name], values)
        for name, values in maps_of(model, network.inputs(mixed), sides).items():
            result[name]["halves"] = float(hits(values, half).float().mean())
        for name, values in maps_of(model, network.inputs(pasted[seen]), objects[seen]).items():
            result[name]["quadrant"] = float(hits(values, corner[seen]).float().mean())
        for name, figures in result.items():
            cells = "x".join(map(str, maps[name].shape[1:]))
            place = {"run": folder.name, "method": method, "layer": name, "cells": cells}
            yield place | {k: round(v, 3) for k, v in figures.items()} | {"pasted": len(seen)}


def main() -> None:
    """Parse the arguments, and append a line of JSON for each run, method and layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument("--images", type=int, default=100, help="for deletion, insertion, weights")
    parser.add_argument("--points", type=int, default=300, help="pictures of two classes")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    test = resight.data(arguments.data).test
    for run in arguments.runs:
        for figures in measure(run, test, arguments.images, arguments.points):
            line = json.dumps(figures)
            print(line, file=sys.stderr)
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


if __name__ == "__main__":
    main()
