"""A run of one's own as the start of another: two classes with 100 images each, by five seeds.

    python bench/transfer.py --data PATH_OR_NAME

One run learns eight classes of CIFAR-10. The two classes that it never saw, by default cat and
truck, are then told apart from 100 training images each, a fifth of them held out: from scratch,
and from the weights of that run. Each seed draws other training images. All runs are tested on all
test images of both classes. A difference to the run from scratch has a 95 % interval over seeds
(Welch).
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import resight
from measure import machine, parsed, write_json
from resight.datasets import Dataset, Split
from resight.metrics.intervals import mean_difference

# 160 images train: the doctor asks for batches of a few of them, and for about 1,000 steps.
SHORT = ("training.batch_size=16", "data.val_fraction=0.2")
STARTS: dict[str, tuple[str, ...]] = {
    "from scratch": (),
    "from the run": (),
    "from the run, all but the head at a tenth of the rate": ("optimizer.backbone_lr_scale=0.1",),
    "from the run, all but the head held": ('training.freeze=["backbone"]',),
}


def of_classes(split: Split, labels: Sequence[int], limit: int | None, seed: int) -> Split:
    """The images of these labels, which become 0, 1, ...; at most `limit` of each, drawn."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for label in labels:
        own = (split.labels == label).nonzero().flatten()
        rows.append(own[torch.randperm(len(own), generator=generator)][:limit])
    part = split.select(torch.cat(rows).sort().values)
    return replace(part, labels=torch.searchsorted(torch.tensor(labels), part.labels))


def with_classes(data: Dataset, names: Collection[str], limit: int | None, seed: int) -> Dataset:
    """The data of these classes alone."""
    labels = [label for label, name in enumerate(data.classes) if name in names]
    return replace(
        data,
        classes=tuple(data.classes[label] for label in labels),
        train=of_classes(data.train, labels, limit, seed),
        test=of_classes(data.test, labels, None, seed),
    )


def main() -> None:
    """Parse the arguments, train the first run, then every start with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument("--recipe", default="swift-s")
    parser.add_argument("--epochs", type=int, help="of the first run, in place of the recipe's")
    parser.add_argument("--classes", nargs=2, default=["cat", "truck"], help="that are held back")
    parser.add_argument("--images", type=int, default=100, help="of each of them")
    parser.add_argument("--short-epochs", type=int, default=100, help="of the runs that follow")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a folder that keeps the first run and results")
    args = parsed(parser)
    out = args.out or Path(tempfile.mkdtemp())
    recipe = resight.with_overrides(resight.load_recipe(args.recipe), ["explain.report=false"])
    whole = resight.data(args.data)
    if unknown := set(args.classes) - set(whole.classes):
        sys.exit(f"no classes {', '.join(sorted(unknown))}; there are {', '.join(whole.classes)}")
    source = out / "source"
    if not (source / "summary.json").exists():
        rest = with_classes(whole, set(whole.classes) - set(args.classes), None, 0)
        first = resight.with_epochs(recipe, args.epochs) if args.epochs else recipe
        resight.train(first, data=rest, out=out, name="source", force=True)
    short = resight.with_epochs(recipe, args.short_epochs)
    kept, done = out / "results.json", dict[str, Any]()
    if kept.exists():
        done = json.loads(kept.read_text())
    for seed in range(args.seeds):
        data = with_classes(whole, args.classes, args.images, seed)
        for name, settings in STARTS.items():
            key = f"{name}, seed {seed}"
            if key not in done:
                weights = () if name == "from scratch" else (f"model.weights={source}",)
                done[key] = train(short, data, (*SHORT, *settings, *weights, f"seed={seed}"))
                kept.write_text(json.dumps(done, indent=2))
            print(key, done[key], file=sys.stderr, flush=True)
    runs = {name: [done[f"{name}, seed {seed}"] for seed in range(args.seeds)] for name in STARTS}
    for name, values in runs.items():
        gain = mean_difference(runs["from scratch"], values)
        line = f"{name}: {statistics.fmean(values):.2%} ({min(values):.2%} to {max(values):.2%})"
        if name != "from scratch":
            line += f", {100 * gain.value:+.1f} points"
            line += f" ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        print(line, file=sys.stderr)
    test = resight.Run.open(source).test.accuracy
    write_json({"machine": machine(), "source": test.value if test else None, "runs": runs})


def train(recipe: resight.Recipe, data: Dataset, settings: Sequence[str]) -> float:
    """The test accuracy that a run ends with."""
    with tempfile.TemporaryDirectory() as out:
        changed = resight.with_overrides(recipe, settings)
        test = resight.train(changed, data=data, out=out, name="run").test
    assert test.accuracy is not None
    return test.accuracy.value


if __name__ == "__main__":
    main()
