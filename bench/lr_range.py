"""Is the rate that a range test recommends near the best one? Short real trainings over a grid.

    python bench/lr_range.py --data PATH_OR_NAME --out grid.json      # CIFAR-10 in any layout

For each network: the range test as `resight train --find-lr` runs it (with `--repeats 3` the median
of three), then one short training by the recipe at every rate of a grid of factors of two, and one
at the rate found. A part of the
training images and few epochs, as the rate matters most there and dozens of trainings are needed.
What is judged is validation accuracy after the last epoch; test images are not looked at. Each
training that is done is written to `--out` at once, and not done again.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import resight
from resight.errors import Diverged
from resight.files import write_text
from resight.lr_finder.find import LRRangeOptions, run_range_test
from resight.recipe.toml import with_changes
from resight.training.loop import fit
from resight.training.setup import prepare

TRAIN_IMAGES = 10_000  # of which the recipe holds out a tenth
PEER_STEPS = 100  # of torch-lr-finder, fastai and Lightning, by default


@dataclass(frozen=True)
class Case:
    """A recipe, shrunk, and the grid of rates around nothing in particular."""

    recipe: str
    settings: tuple[str, ...]
    epochs: int
    lowest: float  # of the grid
    rates: int  # by factors of two


CASES = {
    "swift": Case("swift", (), 4, 0.1, 7),
    "resnet9": Case("resnet9", ("data.image_size=16", "training.batch_size=128"), 2, 0.0125, 6),
    "swift-64": Case("swift", ("model.widths=[64,128,128]", "training.batch_size=256"), 3, 0.1, 6),
    "resnet18": Case("resnet18", ("data.image_size=16",), 2, 0.003125, 7),
}


def recipe_of(case: Case, **changes: Any) -> resight.Recipe:
    """The recipe of a case, with changes by section."""
    settings = ["training.precision=float32", *case.settings]  # as the grids were, and the peers
    recipe = resight.with_overrides(resight.load_recipe(case.recipe), settings)
    return with_changes(resight.with_epochs(recipe, case.epochs), changes, origin="bench")


def part_of(data: str, image_size: int | None) -> resight.Dataset:
    """A fixed part of the training images."""
    dataset = resight.data(data, image_size=image_size)
    rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    return replace(dataset, train=dataset.train.select(rows[:TRAIN_IMAGES]))


def find(case: Case, dataset: resight.Dataset, repeats: int) -> dict[str, Any]:
    """What the range test recommends, and the images it took."""
    setup = prepare(
        recipe_of(case), data=dataset, model=None, device="auto", offline=True, on_event=_unwatched
    )
    curve = run_range_test(setup, LRRangeOptions(repeats=repeats), _unwatched)
    batch = setup.recipe.training.batch_size
    return {
        "peak": curve.peak,
        "interval": curve.interval,
        "verdict": asdict(curve.verdict),
        "images": curve.images,
        "peer_images": PEER_STEPS * batch,
    }


def train(case: Case, dataset: resight.Dataset, lr: float, seed: int) -> dict[str, Any]:
    """Validation accuracy and loss at the end of a short training; 0 where it diverged."""
    recipe = recipe_of(case, optimizer={"lr": lr}, seed=seed)
    setup = prepare(
        recipe, data=dataset, model=None, device="auto", offline=True, on_event=_unwatched
    )
    try:
        for _ in fit(setup.state, setup.recipe, setup.splits):
            pass
    except Diverged:
        return {"lr": lr, "seed": seed, "accuracy": 0.0, "loss": None}
    row = setup.state.rows[-1]
    return {"lr": lr, "seed": seed, "accuracy": row.val_accuracy, "loss": row.val_loss}


def _unwatched(event: object) -> None:
    pass


def conclude(found: dict[str, Any], trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """The best rate of the grid by mean accuracy over seeds, and how far the found one is off."""
    mean: dict[float, float] = {}
    for lr in {t["lr"] for t in trainings}:
        of_rate = [t["accuracy"] for t in trainings if t["lr"] == lr]
        mean[lr] = sum(of_rate) / len(of_rate)
    grid = {lr: accuracy for lr, accuracy in mean.items() if lr != found["peak"]}
    best = max(grid, key=lambda lr: grid[lr])
    return {
        "best": best,
        "best_accuracy": grid[best],
        "found": found["peak"],
        "found_accuracy": mean.get(found["peak"]),
        "found_over_best": found["peak"] and found["peak"] / best,
        "images": found["images"],
        "times_fewer_images": found["peer_images"] / found["images"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="range tests, of which the median")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file, added to")
    asked = parser.parse_args()
    kept = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for name in asked.cases:
        case = CASES[name]
        dataset = part_of(asked.data, recipe_of(case).data.image_size)
        mine = kept.setdefault(name, {"case": asdict(case), "trainings": []})
        if "found" not in mine:
            mine["found"] = find(case, dataset, asked.repeats)
        write_text(asked.out, json.dumps(kept, indent=2))
        rates = [case.lowest * 2**k for k in range(case.rates)]
        for lr in filter(None, [mine["found"]["peak"], *rates]):
            for seed in range(asked.seeds):
                if any((t["lr"], t["seed"]) == (lr, seed) for t in mine["trainings"]):
                    continue
                mine["trainings"].append(done := train(case, dataset, lr, seed))
                print(name, done, file=sys.stderr)
                write_text(asked.out, json.dumps(kept, indent=2))
        mine["conclusion"] = conclude(mine["found"], mine["trainings"])
        write_text(asked.out, json.dumps(kept, indent=2))
        print(name, json.dumps(mine["conclusion"], indent=2))


if __name__ == "__main__":
    main()
