"""Check a data set for images that are there twice: in two splits, nearly so, or in one split."""

from collections.abc import Iterator

from .dataset_probe import DatasetProbe
from .issues import Issue, Skipped, error, note, warning

MIN_SEARCHED = 500  # images that a share of near copies is told from


def train_test_overlap(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that no test or validation image is a training image, pixel for pixel.

    Why is this bad:
        The network has learned these images by heart, so the accuracy is too high. Copies that
        were compressed again, mirrored or moved are found by the check near-duplicates.
    Example:
        images = digits.test.images.clone()
        images[0] = digits.train.images[0]
        dataset = replace(digits, test=replace(digits.test, images=images))
    Fix:
        Remove the copies from one of the two splits, for example by `data.exclude`.
    """
    train, train_rows = probe.dataset.train, probe.rows["training"]
    for name, split in probe.held_out.items():
        rows = probe.rows[name]
        if shared := [digest for digest in rows if digest in train_rows]:
            n = sum(len(rows[digest]) for digest in shared)
            id, train_id = split.ids[rows[shared[0]][0]], train.ids[train_rows[shared[0]][0]]
            yield error(
                f"{n:,} of {len(split):,} {name} images are training images, pixel for pixel: {id} "
                f"is {train_id}",
                "remove them from one of the splits; up to "
                f"{n / len(split):.1%} of the {name} accuracy comes from them",
            )


def near_duplicates(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that few test or validation images have a near copy among the training images.

    A near copy was compressed again, made brighter, mirrored or moved by a few pixels. It is found
    by its coarse structure, and confirmed by its colors and details. Images that are alike without
    being copies, such as written digits, are no issue: the check measures how far details agree by
    chance. Shares below 1 % are a note.

    Why is this bad:
        The network has nearly learned these images by heart, so the accuracy is too high for
        pictures that are new. If the copies have different labels, one of them is wrong.
    Example:
        images = digits.test.images.clone()
        images[:10] = digits.train.images[:10].flip(-1) // 2 + 40
        dataset = replace(digits, test=replace(digits.test, images=images))
    Fix:
        Look at the pairs: `resight doctor RECIPE --pairs pairs.png` draws them, and writes
        `pairs.csv`. With `--set data.exclude=pairs.csv` you train without the training images of
        the pairs. Then run the doctor again, because an image may have several copies. If your
        pictures come in series, divide them into splits by series.
    """
    train = probe.dataset.train
    if probe.max_products // len(train) < min(MIN_SEARCHED, len(probe.dataset.test)):
        raise Skipped("it takes seconds with so many images: resight doctor looks for them")
    for name, split in probe.held_out.items():
        pairs = probe.near_copies[name]
        n = len(pairs.rows)
        if not n:
            continue
        row, match = int(pairs.rows[0]), int(pairs.matches[0])
        other = int((split.labels.cpu()[pairs.rows] != train.labels.cpu()[pairs.matches]).sum())
        share = n / pairs.num_searched
        looked = "" if pairs.num_searched == len(split) else " that were looked at"
        yield (warning if share >= 0.01 or other else note)(
            f"{n:,} of {pairs.num_searched:,} {name} images{looked} ({share:.1%}) have a near copy "
            f"in training, {other:,} of them with another label: {split.ids[row]} and "
            f"{train.ids[match]}",
            "look at them: resight doctor RECIPE --pairs pairs.png; "
            "data.exclude=pairs.csv trains without them",
        )


def duplicates(probe: DatasetProbe) -> Iterator[Issue]:
    """Check that equal training images have equal labels, and that there are few of them.

    Why is this bad:
        If one image has two labels, one of them is wrong. Copies with the same label count
        double, and a copy of a validation image may be trained on.
    Example:
        images = digits.train.images.clone()
        images[0] = images[1]
        dataset = replace(digits, train=replace(digits.train, images=images))
    Fix:
        Correct the labels, or remove the copies.
    """
    train = probe.dataset.train
    classes = [probe.dataset.classes[label] for label in train.labels.tolist()]
    groups = [rows for rows in probe.rows["training"].values() if len(rows) > 1]
    contradictory = [rows for rows in groups if len({classes[row] for row in rows}) > 1]
    if contradictory:
        one = contradictory[0][0]
        other = next(row for row in contradictory[0] if classes[row] != classes[one])
        yield error(
            f"{sum(map(len, contradictory)):,} training images have a copy with another label: "
            f"{train.ids[one]} is {classes[one]} and {train.ids[other]} is {classes[other]}",
            "correct the labels, or remove the images",
        )
    num_copies = sum(len(rows) - 1 for rows in groups)
    if num_copies >= max(1, 0.01 * len(train)):
        yield warning(
            f"{num_copies:,} of {len(train):,} training images are copies of another, so images "
            "that are held out may be trained on",
            "remove the copies",
        )
