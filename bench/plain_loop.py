"""images/s of `resight train` against a plain hand-written loop of the same network.

    python bench/plain_loop.py --data PATH_OR_NAME        # CIFAR-10 in any layout

Both sides train on the same images in float32 and channels_last. The plain loop has its images
normalized beforehand, no augmentation, and is taken at the fastest of several batch sizes; ours
is the recipe, all of it: augmentation, micro-batches, schedule, loss and history included.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resight
from measure import in_turn, machine, parsed, spread, write_json
from resight.datasets.augment import normalize
from resight.networks import build_model
from resight.recipe.toml import with_changes
from resight.training.loop import fit
from resight.training.setup import make_splits
from resight.training.state import TrainData, init_state

NETWORKS = ("resnet9", "resnet18")
PLAIN_BATCHES = (64, 128, 256)
IMAGES = 512  # a measurement


def plain_side(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> float:
    """images/s of a loop as one would write it by hand."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    model.train()
    start = time.perf_counter()
    for first in range(0, IMAGES, batch):
        x, y = images[first : first + batch], labels[first : first + batch]
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return IMAGES / (time.perf_counter() - start)


def our_side(recipe: resight.Recipe, data: TrainData, model: nn.Module) -> float:
    """images/s of the training loop of resight, its recipe as it is but for the precision."""
    steps = IMAGES // recipe.training.batch_size
    events = fit(init_state(recipe, data, model), recipe, data)
    began = time.perf_counter()
    for _ in range(steps):
        next(events)
    secs = time.perf_counter() - began
    events.close()
    return steps * recipe.training.batch_size / secs


def compare(name: str, data: resight.Dataset, rounds: int) -> dict[str, object]:
    """Both sides for one network, in turn."""
    same = {"optimizer": {"lr": 0.01}, "training": {"precision": "float32"}}
    recipe = with_changes(resight.load_recipe(name), same, origin="bench")
    splits = make_splits(recipe, data, torch.device("cpu"))

    def fresh() -> nn.Module:
        model = build_model(recipe.model, in_channels=3, num_classes=10, image_size=32, seed=0)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    images = normalize(splits.train.images[:IMAGES], splits.stats)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = splits.train.labels[:IMAGES]
    sides: dict[str, Callable[[], float]] = {
        f"plain, batch {batch}": lambda batch=batch: plain_side(fresh(), images, labels, batch)  # type: ignore[misc]
        for batch in PLAIN_BATCHES
    }
    sides["resight"] = lambda: our_side(recipe, splits, fresh())
    figures = in_turn(sides, rounds, lambda line: print(f"{name}  {line}", file=sys.stderr))
    found = {side: spread(values) for side, values in figures.items()}
    best = max((side for side in found if side != "resight"), key=lambda s: found[s]["median"])
    ratios = [a / b for a, b in zip(figures["resight"], figures[best], strict=True)]
    return {"images_per_sec": found, "best_plain": best, "ratio": spread(ratios)}


def main() -> None:
    """Parse the arguments, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parsed(parser)
    where = machine()
    data = resight.data(arguments.data)
    results = {name: compare(name, data, arguments.rounds) for name in arguments.networks}
    for name, result in results.items():
        ratio = result["ratio"]
        print(f"{name}: {ratio} x {result['best_plain']}", file=sys.stderr)
    write_json({"machine": where, "results": results})


if __name__ == "__main__":
    main()
