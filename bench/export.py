"""Exported programs beside torch: how far their outputs differ, and how fast they are on a CPU.

    python bench/export.py --data PATH_OR_NAME      # every network, on 1,000 test images

The networks have the weights of their seed; one pass over 512 training images sets the statistics
of batch norm. Differences are the largest of any output, heat maps included, absolute. A speed is
the median over the rounds, the sides in turn, in images a second, with pixels in and probabilities
out: torch runs the same network as `resight predict` does, without its heat maps.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import resight
from measure import in_turn, machine, parsed, spread
from resight.datasets import Dataset, Statistics, statistics
from resight.datasets.augment import normalize
from resight.deploy.network import PixelNetwork, class_maps
from resight.deploy.programs import ProgramKind, capture, open_program, write_program
from resight.deploy.verify import largest_difference
from resight.events import ignore_events
from resight.networks import build_model, prepare_model
from resight.records import ImageArray, evenly_spaced

RECIPES = ("swift-s", "resnet9", "resnet18", "resnet34", "resnet18-layernorm")
KINDS: tuple[ProgramKind, ...] = ("onnx", "pt2")
NUM_IMAGES = 1_000
NUM_STATISTICS = 512  # training images that set the statistics of batch norm


def make_network(name: str, data: Dataset, stats: Statistics) -> nn.Module:
    """The network of a recipe, its batch norms as after a look at training images."""
    network = build_model(
        resight.load_recipe(name).model,
        in_channels=data.train.images.shape[1],
        num_classes=len(data.classes),
        image_size=data.train.images.shape[-1],
        seed=0,
    )
    rows = torch.from_numpy(evenly_spaced(len(data.train), NUM_STATISTICS))
    images = normalize(data.train.images[rows], stats)
    prepare_model(network, images)
    with torch.no_grad():
        for part in torch.split(images, 128):
            network.train()(part)
    return network.eval()


def images_per_sec(run: Callable[[ImageArray], object], images: ImageArray) -> float:
    """The speed of `run` on a batch, over at least half a second."""
    done, begin = 0, time.perf_counter()
    while (secs := time.perf_counter() - begin) < 0.5:
        run(images)
        done += len(images)
    return done / secs


def run_torch(network: nn.Module, stats: Statistics, images: ImageArray) -> torch.Tensor:
    """Probabilities (N, K), as resight computes them."""
    with torch.no_grad():
        normalized = normalize(torch.from_numpy(images), stats)
        logits: torch.Tensor = network(normalized.contiguous(memory_format=torch.channels_last))
        return logits.softmax(dim=1)


def measure(name: str, data: Dataset, batches: list[int], rounds: int) -> dict[str, Any]:
    """The differences and speeds of one network."""
    stats = statistics(data.train)
    network = make_network(name, data, stats)
    rows = torch.from_numpy(evenly_spaced(len(data.test), NUM_IMAGES))
    images = data.test.images[rows]
    maps = class_maps(network, normalize(images[:4], stats))
    program = capture(PixelNetwork(network, stats, maps=maps), images[:2])
    figures: dict[str, Any] = {"heatmap of": maps and maps.layer}
    sides: dict[str, Callable[[ImageArray], object]] = {"torch": partial(run_torch, network, stats)}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder) / f"model.{kind}"
            write_program(program, path, kind, {})
            run = open_program(path, kind)
            distance = largest_difference(
                run, network, images, stats, with_maps=maps is not None, on_event=ignore_events
            )
            figures[f"{kind}, difference"] = f"{distance:.1e}"
            sides[kind] = run
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for batch in batches:
        part = images[:batch].numpy()
        speeds = {side: partial(images_per_sec, run, part) for side, run in sides.items()}
        for side, values in in_turn(speeds, rounds, say=lambda line: None).items():
            figures[f"{side}, batch {batch}"] = f"{spread(values)['median']:,.0f}"
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parsed(parser)
    torch.set_num_threads(options.threads)
    data = resight.data(options.data)
    print(machine())
    rows = []
    for name in options.recipes:
        rows.append(measure(name, data, options.batches, options.rounds))
        print(name, rows[-1], file=sys.stderr)
    print(f"{'':18}", *(f"{name:>18}" for name in options.recipes))
    for column in rows[0]:
        print(f"{column:18}", *(f"{row[column]!s:>18}" for row in rows))


if __name__ == "__main__":
    main()
