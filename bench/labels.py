"""Does one pass of `resight labels` help? Planted wrong labels, found, put right, trained again.

    python bench/labels.py --data PATH_OR_NAME --out FILE.jsonl      # CIFAR-10; a line a seed

A share of the training labels is changed to another class, drawn uniformly; the test labels stay.
A person is played by the planted truth: of the list that `labels` makes, the first N are looked at,
where N is the number of changed labels, and those that were changed get their own label back. The
same recipe trains on the noisy, on the corrected and on the clean labels. If cleanlab can be
imported, it ranks the same out-of-fold predictions.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import resight
from measure import optional
from resight.metrics.mistakes import num_wrong
from resight.records import Predictions


def spoilt(data: resight.Dataset, share: float, seed: int) -> tuple[resight.Dataset, set[int]]:
    """Return the data with a share of its training labels changed, and the rows of these."""
    generator, train = torch.Generator().manual_seed(seed), data.train
    rows = torch.randperm(len(train), generator=generator)[: round(share * len(train))]
    shift = torch.randint(1, len(data.classes), (len(rows),), generator=generator)
    labels = train.labels.clone()
    labels[rows] = (labels[rows] + shift) % len(data.classes)
    return replace(data, train=replace(train, labels=labels)), set(rows.tolist())


def relabeled(data: resight.Dataset, clean: resight.Dataset, rows: set[int]) -> resight.Dataset:
    """Return the data with the clean labels of these rows."""
    labels, at = data.train.labels.clone(), torch.tensor(sorted(rows), dtype=torch.long)
    labels[at] = clean.train.labels[at]
    return replace(data, train=replace(data.train, labels=labels))


def precision(ranking: Sequence[int], planted: set[int]) -> float:
    """Return the share of changed labels among as many of the first as were changed."""
    return len(set(ranking[: len(planted)]) & planted) / len(planted)


def cleanlab_ranking(predictions: Predictions) -> list[int] | None:
    """Return the rows that cleanlab names, the likeliest first, or None without cleanlab."""
    if (filters := optional("cleanlab.filter")) is None:
        return None
    rows = filters.find_label_issues(
        predictions.labels, predictions.probs, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return [int(row) for row in rows]


def one_seed(
    clean: resight.Dataset, recipe: resight.Recipe, seed: int, share: float, folds: int
) -> dict[str, Any]:
    """Return the figures of one draw of wrong labels."""
    noisy, planted = spoilt(clean, share, seed)
    recipe = resight.with_overrides(recipe, [f"seed={seed}"])

    def accuracy(data: resight.Dataset) -> float:
        with tempfile.TemporaryDirectory() as out:
            return resight.train(recipe, data=data, out=out, name="run").test.accuracy.value

    with tempfile.TemporaryDirectory() as out:
        result = resight.cross_validate(recipe, folds=folds, data=noisy, out=out)
    assert result.predictions is not None
    named = [issue.row for issue in result.label_issues]
    corrected = relabeled(noisy, clean, set(named[: len(planted)]) & planted)
    by_cleanlab = cleanlab_ranking(result.predictions)
    return {
        "seed": seed,
        "planted": len(planted),
        "named": len(named),
        "estimated wrong": num_wrong(result.label_issues),
        "named and planted": len(set(named) & planted),
        "precision at N": precision(named, planted),
        "cleanlab named": by_cleanlab and len(by_cleanlab),
        "cleanlab precision at N": by_cleanlab and precision(by_cleanlab, planted),
        "accuracy before": accuracy(noisy),
        "accuracy after": accuracy(corrected),
        "accuracy on clean labels": accuracy(clean),
    }


def main() -> None:
    """Parse the arguments, and append a line of JSON for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument("--recipe", default="swift-s")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=10_000, help="to train on")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels to change")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data = resight.data(arguments.data)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(data.train), generator=generator)[: arguments.images].sort().values
    data = replace(data, train=data.train.select(rows))
    recipe = resight.with_overrides(
        resight.load_recipe(arguments.recipe),
        ["explain.report=false", "explain.pictures=false", "training.select=last"],
    )
    recipe = resight.with_epochs(recipe, arguments.epochs)
    for seed in arguments.seeds:
        line = json.dumps(one_seed(data, recipe, seed, arguments.share, arguments.folds))
        print(line, file=sys.stderr)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


if __name__ == "__main__":
    main()
