"""How many wrong labels confident learning finds: 5 % of those of the digits, changed at random.

    python bench/planted_labels.py

Training and test labels are changed alike, in three draws; about a minute on one core.
"""

import tempfile

import torch

import resight
from resight.datasets import Dataset, Split
from resight.metrics.mistakes import label_issues, mistakes

SHARE = 0.05
CHANGES = ["model.widths=[16,32,32]", "explain.report=false"]


def spoilt(split: Split, generator: torch.Generator) -> tuple[Split, set[int]]:
    """The split with a share of its labels changed to another class, and which."""
    rows = torch.randperm(len(split), generator=generator)[: round(SHARE * len(split))]
    shift = torch.randint(1, 10, (len(rows),), generator=generator)
    labels = split.labels.clone()
    labels[rows] = (labels[rows] + shift) % 10
    return Split(split.images, labels, split.ids), set(rows.tolist())


def main() -> None:
    clean = resight.data("digits")
    recipe = resight.with_overrides(resight.load_recipe("digits"), CHANGES)
    for seed in (4, 5, 6):
        generator = torch.Generator().manual_seed(seed)
        train, _ = spoilt(clean.train, generator)
        test, planted = spoilt(clean.test, generator)
        data = Dataset("spoilt digits", clean.classes, train, test)
        with tempfile.TemporaryDirectory() as out:
            run = resight.train(resight.with_epochs(recipe, 10), data=data, out=out)
        assert run.predictions is not None
        named = {label.row for label in label_issues(run.predictions)}
        worst = {mistake.row for mistake in mistakes(run.predictions)[: len(planted)]}
        print(
            f"draw {seed}: {len(planted)} of {len(test)} labels changed; {len(named)} named "
            f"suspicious, {len(named & planted)} of them changed; of the {len(worst)} mistakes of "
            f"largest loss {len(worst & planted)}"
        )


if __name__ == "__main__":
    main()
