"""What to do where two classes have a fiftieth of the images: class weights, a balanced order?

    python bench/imbalance.py --data PATH_OR_NAME --recipe swift-s --epochs 8 --seeds 3

Two classes of CIFAR-10, cat and truck, keep 2 % of their training images, the same in all runs, and
all of their test images. So the test set is balanced, and its accuracy is the balanced accuracy.
Every setting is trained with every seed; learning rate and schedule are the recipe's in all of
them. A difference to the plain recipe has a 95 % interval over seeds (Welch).
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import resight
from measure import machine, parsed, write_json
from resight.metrics.intervals import mean_difference

SETTINGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "class weights": ("loss.class_weights=balanced",),
    "class weights, power 0.5": ("loss.class_weights=0.5",),
    "balanced order": ("data.balance=balanced",),
    "balanced order, power 0.5": ("data.balance=0.5",),
}


def cut(data: resight.Dataset, classes: Sequence[str], share: float, limit: int) -> resight.Dataset:
    """Keep a share of the training images of some classes, and at most `limit` of each class."""
    generator, rows = torch.Generator().manual_seed(0), []
    for label, name in enumerate(data.classes):
        own = (data.train.labels == label).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=generator)][:limit]
        rows.append(own[: max(2, round(share * len(own)))] if name in classes else own)
    return replace(data, train=data.train.select(torch.cat(rows).sort().values))


def train(
    recipe: resight.Recipe, data: resight.Dataset, classes: Sequence[str], device: str
) -> dict[str, float]:
    """Accuracy, balanced accuracy and the recall of the cut classes that a run ends with."""
    with tempfile.TemporaryDirectory() as out:
        test = resight.train(recipe, data=data, out=out, name="run", device=device).test
    figures = {"accuracy": test.accuracy, "balanced accuracy": test.balanced_accuracy}
    figures |= {f"recall of {name}": test.per_class[name] for name in classes}
    return {name: figure.value for name, figure in figures.items() if figure}


def table(runs: dict[str, list[dict[str, float]]]) -> str:
    """A line a setting: means over seeds, lowest and highest, and the difference to plain."""
    names = list(runs["plain"][0])
    lines = ["| setting | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for setting, results in runs.items():
        cells = []
        for name in names:
            values, plain = ([run[name] for run in part] for part in (results, runs["plain"]))
            cell = f"{statistics.fmean(values):.2%} ({min(values):.2%} to {max(values):.2%})"
            if setting != "plain" and len(values) > 1 and len({*values, *plain}) > 1:
                gain = mean_difference(plain, values)
                cell += f", {100 * gain.value:+.2f} points"
                cell += f" ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
            cells.append(cell)
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, train, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument("--recipe", default="swift-s")
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--classes", nargs="+", default=["cat", "truck"], help="that are cut")
    parser.add_argument("--share", type=float, default=0.02, help="of their images that is kept")
    parser.add_argument("--limit", type=int, default=10**9, help="images of a class, to try it")
    parser.add_argument("--device", default="auto")
    args = parsed(parser)
    recipe = resight.with_overrides(resight.load_recipe(args.recipe), ["explain.report=false"])
    if args.epochs:
        recipe = resight.with_epochs(recipe, args.epochs)
    whole = resight.data(args.data)
    if unknown := set(args.classes) - set(whole.classes):
        sys.exit(f"no classes {', '.join(sorted(unknown))}; there are {', '.join(whole.classes)}")
    data = cut(whole, args.classes, args.share, args.limit)
    counts = torch.bincount(data.train.labels).tolist()
    print(dict(zip(data.classes, counts, strict=True)), file=sys.stderr)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for seed in range(args.seeds):
        for name, settings in SETTINGS.items():  # in turn, so that a stop leaves whole seeds
            changed = resight.with_overrides(recipe, [*settings, f"seed={seed}"])
            runs[name].append(train(changed, data, args.classes, args.device))
            print(seed, name, runs[name][-1], file=sys.stderr)
    print(table(runs), file=sys.stderr)
    result: dict[str, Any] = {"machine": machine(), "recipe": args.recipe, "counts": counts}
    write_json({**result, "epochs": recipe.schedule.epochs, "runs": runs})


if __name__ == "__main__":
    main()
