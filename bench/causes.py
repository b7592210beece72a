"""Are the causes that `explain` names the true ones? Causes are planted in CIFAR-10 to tell.

    python bench/causes.py --data PATH --plants strong --first-seed 4 --seeds 3 --runs FOLDER
    python bench/causes.py --data PATH --control --first-seed 4 --seeds 5 --runs FOLDER

Every training set of `plants.py` is trained on once for each seed, with the recipe swift-s; plants
that change the test set alone share the network of the clean one. Of the mistakes that the plant
causes, recall is the share that has the planted cause. Of the mistakes with that cause, precision
is the share that the plant touches. `named` says whether one of the first three sentences names it.
`false` counts shortcuts and sub-groups that were not planted. Where cleanlab is installed, its
label issues are in the same table. A line a plant and seed is added to `--out` as it is measured,
`--runs` keeps the trained networks for the next time, and the last lines are a table of all in
`--out`, a row a plant.
"""

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import resight
from measure import optional
from plants import PLANTS, SETS, Planted
from resight.datasets import Split
from resight.datasets.splits import train_and_val
from resight.interpret.causes import find_causes
from resight.interpret.steps import ExplainInputs
from resight.records import BoolArray, Predictions
from resight.runs.causes import Causes
from resight.runs.checkpoint import ModelInfo, load_model
from resight.runs.inference import predict_images
from resight.runs.series import is_complete

FALSE = ("shortcut", "rare", "property")  # causes that would be false unless they are planted


def smaller(data: resight.Dataset, count: int, tested: int, seed: int) -> resight.Dataset:
    """The data with `count` training images, as many of each class, and `tested` test images."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for label in range(len(data.classes)):
        own = (data.train.labels == label).nonzero().flatten()
        rows.append(
            own[torch.randperm(len(own), generator=generator)][: count // len(data.classes)]
        )
    test = data.test.select(torch.arange(min(tested, len(data.test))))
    return replace(data, train=data.train.select(torch.cat(rows).sort().values), test=test)


def planted(data: resight.Dataset, name: str, seed: int) -> Planted:
    """The data with a plant; plants of one training set draw it alike."""
    trained, plant = PLANTS[name]
    generator = torch.Generator().manual_seed(1000 * seed + zlib.crc32(trained.encode()) % 1000)
    return plant(data, generator)


def trained_folder(
    recipe: resight.Recipe, data: resight.Dataset, runs: Path, name: str, seed: int
) -> Path:
    """The run folder of a plant's training set; it is trained if it is not there."""
    folder = runs / f"{name.replace(' ', '-').replace('%', 'pc').replace(',', '')}-{seed}"
    if not (folder / "summary.json").exists() or not is_complete(resight.Run.open(folder)):
        resight.train(recipe, data=data, out=runs, name=folder.name, force=True)
    return folder


def predict(model: torch.nn.Module, info: ModelInfo, split: Split) -> Predictions:
    """The predictions of a split."""
    return predict_images(model, split, info)


def truth(
    plant: Planted, predictions: Predictions, model: Any, info: ModelInfo, control: Any
) -> BoolArray:
    """(N,) whether a mistake is one that the plant causes."""
    wrong: BoolArray = ~predictions.correct & plant.affected.numpy()
    if plant.preds is not None:
        same: BoolArray = predictions.preds == plant.preds.numpy()
        return wrong & same
    if plant.without is not None:
        rows = np.flatnonzero(wrong)
        split = plant.data.test.select(torch.from_numpy(rows))
        split = replace(split, images=plant.without[rows])
        wrong[rows] = predict(model, info, split).correct
    if plant.by_control:
        other = predict(control[0], control[1], plant.data.test)
        wrong &= other.correct
    return wrong


def score(causes: Causes, plant: Planted, true: BoolArray) -> dict[str, Any]:
    """Recall, precision, whether it is named, and what else is claimed."""
    hits = [
        cause
        for cause in causes.causes
        if cause.kind in plant.kinds and any(word in cause.sentence.lower() for word in plant.words)
    ]
    rows = np.array([row for cause in hits for row in cause.rows], dtype=np.int64)
    inside = plant.affected.numpy()
    named = any(cause in hits for cause in causes.causes[:3])
    false = [c for c in causes.causes if c not in hits and c.kind in FALSE]
    return {
        "mistakes": causes.mistakes,
        "planted": int(true.sum()),
        "claimed": len(rows),
        "recall": float(true[rows].sum() / true.sum()) if true.any() else None,
        "precision": float(inside[rows].mean()) if len(rows) else None,
        "named": named if plant.kinds else None,
        "false": [f"{cause.kind}, {len(cause.rows)}: {cause.sentence}" for cause in false],
        "sentences": [f"{c.kind}, {len(c.rows)}: {c.sentence} [{c.test}]" for c in causes.causes],
        "notes": list(causes.notes),
        "unexplained": causes.mistakes - causes.explained,
    }


def peer(predictions: Predictions, plant: Planted, true: BoolArray) -> dict[str, Any]:
    """Recall and precision of cleanlab's label issues, from the same predictions."""
    filters = optional("cleanlab.filter")
    if filters is None or plant.kinds != ("wrong label",):
        return {}
    named = filters.find_label_issues(predictions.labels, predictions.probs)
    return {
        "cleanlab": {
            "claimed": int(named.sum()),
            "recall": float(named[true].mean()),
            "precision": float(plant.affected.numpy()[named].mean()),
        }
    }


def measure(
    data: resight.Dataset, recipe: resight.Recipe, runs: Path, name: str, seed: int
) -> dict[str, Any]:
    """One plant, one seed."""
    plant = planted(data, name, seed)
    folder = trained_folder(recipe, plant.data, runs, PLANTS[name][0], seed)
    control = None
    if plant.by_control:
        clean = trained_folder(recipe, data, runs, "clean", seed)
        control = load_model(clean, None, torch.device("cpu"))
    model, info = load_model(folder, None, torch.device("cpu"))
    predictions = predict(model, info, plant.data.test)
    train, _ = train_and_val(plant.data, info.recipe)
    began = time.perf_counter()
    inputs = ExplainInputs(model, info.recipe, info.stats, train, plant.data.test, predictions)
    causes = find_causes(inputs)
    secs = time.perf_counter() - began
    true = truth(plant, predictions, model, info, control)
    result = score(causes, plant, true)
    return {
        "plant": name,
        "seed": seed,
        "secs": round(secs, 1),
        **result,
        **peer(predictions, plant, true),
    }


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a Markdown table: a row a plant, with means over its seeds."""
    yield (
        "| planted | seeds | mistakes by it | recall | precision | named in the first three "
        "sentences | claims of something not planted | cleanlab: recall, precision |"
    )
    yield "| --- |" + " --- |" * 7

    def mean(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{sum(known) / len(known):.2f}" if known else "–"

    for name in PLANTS:
        own = [line for line in lines if line["plant"] == name]
        if not own:
            continue
        peers = [line["cleanlab"] for line in own if "cleanlab" in line]
        named = [line["named"] for line in own if line["named"] is not None]
        cells = [
            name,
            ", ".join(str(line["seed"]) for line in own),
            f"{sum(line['planted'] for line in own) / len(own):.0f}",
            mean([line["recall"] for line in own]),
            mean([line["precision"] for line in own]),
            f"{sum(named)} of {len(named)}" if named else "–",
            ", ".join(str(len(line["false"])) for line in own),
            ", ".join(mean([peer[key] for peer in peers]) for key in ("recall", "precision"))
            if peers
            else "–",
        ]
        yield f"| {' | '.join(cells)} |"


def parsed() -> argparse.Namespace:
    """The arguments; `plants` are names of plants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument(
        "--plants",
        nargs="+",
        choices=[*SETS, *PLANTS],
        default=["all"],
        metavar="NAME",
        help=f"{', '.join(SETS)}, or: {'; '.join(PLANTS)}".replace("%", "%%"),
    )
    parser.add_argument("--control", action="store_true", help="nothing is planted: clean alone")
    parser.add_argument("--recipe", default="swift-s")
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("causes.json"), help="a JSON line a plant")
    parser.add_argument(
        "--runs", type=Path, help="keep the trained networks here, of one --train and --epochs"
    )
    parser.add_argument("--train-only", action="store_true", help="fill --runs, and stop")
    args = parser.parse_args()
    names = ["clean"] if args.control else args.plants
    args.plants = list(dict.fromkeys(one for name in names for one in SETS.get(name, (name,))))
    return args


def main() -> None:
    """Parse the arguments, train, and add a line a plant and seed."""
    args = parsed()
    whole = resight.data(args.data)
    with tempfile.TemporaryDirectory() as temporary:
        runs = args.runs or Path(temporary)
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            data = smaller(whole, args.train, args.test, seed)
            recipe = resight.with_epochs(resight.load_recipe(args.recipe), args.epochs)
            settings = ["explain.report=false", f"seed={seed}"]
            recipe = resight.with_overrides(recipe, settings)
            for name in args.plants:
                if args.train_only:
                    trained_folder(
                        recipe, planted(data, name, seed).data, runs, PLANTS[name][0], seed
                    )
                    print(time.strftime("%H:%M:%S"), name, seed, file=sys.stderr, flush=True)
                    continue
                line = measure(data, recipe, runs, name, seed)
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print({k: v for k, v in line.items() if k != "sentences"}, flush=True)
    if not args.train_only:
        print(*table([json.loads(line) for line in args.out.open()]), sep="\n")


if __name__ == "__main__":
    main()
