"""A held ImageNet network with a fitted head, and fine-tuning, on few images of CIFAR-10 at 96 px.

    python bench/probe.py --data PATH_OR_NAME                    # probe: 1,000 and 200 images
    python bench/probe.py --data PATH_OR_NAME --recipes probe finetune --images 1000

The recipes `probe` and `finetune` take their network and weights from `resight[pretrained]`. Every
draw is of as many images of each class, and a fifth of them validates, as the recipes say. All
draws are tested on the same images. The times are of an empty cache: for the features of all
images, mirrored ones included, and for the head with its choice of a penalty.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import resight
from measure import machine, parsed, write_json
from resight.datasets import Dataset, Split
from resight.datasets.readers.images import fit_arrays
from resight.events import Event, Message, Progress
from resight.records import evenly_spaced

SIDE = 96  # px


def draw(data: Dataset, count: int, seed: int, num_test: int) -> Dataset:
    """As many training images of each class, `count` in all, and evenly spaced test images."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for label in range(len(data.classes)):
        own = (data.train.labels == label).nonzero().flatten()
        chosen = torch.randperm(len(own), generator=generator)[: count // len(data.classes)]
        rows.append(own[chosen])
    test = torch.from_numpy(evenly_spaced(len(data.test), num_test))
    return replace(
        data,
        train=_enlarged(data.train.select(torch.cat(rows).sort().values)),
        test=_enlarged(data.test.select(test)),
    )


def _enlarged(split: Split) -> Split:
    images, _ = fit_arrays(split.images.numpy(), SIDE)
    return replace(split, images=torch.from_numpy(images), originals=None)


class Times:
    """The seconds of the features and of the head, from the events of a run."""

    def __init__(self) -> None:
        self.begin = self.features = self.head = time.perf_counter()

    def __call__(self, event: Event) -> None:
        """Take the time of the events that a probe sends."""
        now = time.perf_counter()
        if isinstance(event, Progress) and event.task.startswith("features"):
            self.begin = now if event.done == 0 else self.begin
            self.features = now
        elif isinstance(event, Message) and event.text.startswith("head fitted"):
            self.head = now


def train(recipe: str, data: Dataset, settings: Sequence[str]) -> dict[str, float]:
    """The test accuracy of a run, and its times in seconds."""
    chosen = resight.with_overrides(
        resight.load_recipe(recipe),
        [f"data.image_size={SIDE}", "explain.report=false", *settings],
    )
    times, begin = Times(), time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        os.environ["RESIGHT_CACHE"] = str(Path(out) / "cache")  # empty for every run
        test = resight.train(chosen, data=data, out=out, name="run", on_event=times).test
    assert test.accuracy is not None
    return {
        "accuracy": test.accuracy.value,
        "features, s": round(times.features - times.begin, 2),
        "head, s": round(times.head - times.features, 2),
        "run, s": round(time.perf_counter() - begin, 1),
    }


def main() -> None:
    """Parse the arguments, train every recipe on every draw, print a line a run and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument("--recipes", nargs="+", default=["probe"])
    parser.add_argument("--images", nargs="+", type=int, default=[1000, 200])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--set", nargs="+", default=[], help="settings, as probe.l2=0.1")
    parser.add_argument("--json", type=Path, help="a file that keeps the runs that are done")
    args = parsed(parser)
    whole = resight.data(args.data)
    done: dict[str, Any] = {}
    if args.json and args.json.exists():
        done = json.loads(args.json.read_text())
    for seed in range(args.draws):
        for recipe in args.recipes:
            for count in args.images:
                name = f"{recipe}, {count} images, draw {seed}"
                if name not in done:
                    done[name] = train(recipe, draw(whole, count, seed, args.test), args.set)
                print(name, done[name], file=sys.stderr, flush=True)
                if args.json:
                    args.json.write_text(json.dumps(done, indent=2))
    means = {
        f"{recipe}, {count} images": statistics.fmean(
            done[f"{recipe}, {count} images, draw {seed}"]["accuracy"] for seed in range(args.draws)
        )
        for recipe in args.recipes
        for count in args.images
    }
    write_json({"machine": machine(), "test images": args.test, "means": means, "runs": done})


if __name__ == "__main__":
    main()
