"""The network itself: what it says of a picture without content, and what it has not learned."""

import numpy as np
import torch

from ...records import BoolArray, IntArray, evenly_spaced
from ...runs.causes import Cause
from .chance import as_p, more_often, number, share
from .inputs import CauseInputs

_NUM_TRAIN = 2_000  # training images that are predicted
_NUM_LIKE = 5  # nearest training images of the true class
_MIN_SURE = 0.5  # probability from which an empty picture has a class
_MAX_FITTED = 0.9  # train accuracy above which nothing is left to learn
_ALPHA = 0.01
_GAP = 0.15  # of train above test accuracy: images known by heart


def prior_notes(inputs: CauseInputs) -> list[str]:
    """Return a line on what the network says of an empty, a black and a noisy picture."""
    shape = inputs.test.shape[1:]
    mean = torch.tensor(inputs.explained.stats.mean)[:, None, None].expand(shape) * 255
    noise = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    pictures = {"mean color": mean, "black": torch.zeros(shape), "noise": noise}
    probs = inputs.probs(torch.stack([picture.byte() for picture in pictures.values()]))
    parts = [
        f"{name}: {inputs.classes[int(p.argmax())]} at {p.max():.2f}"
        for name, p in zip(pictures, probs, strict=True)
    ]
    return [f"What the network says of a picture without content ({'; '.join(parts)})."]


def prior_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the mistakes whose answer is that of the empty picture, and needs no picture.

    A mistake counts if its class is that of the empty picture, and it turns right once the logits
    of the empty picture are taken off. Pictures that are right must mostly stay right by this.
    """
    stats = inputs.explained.stats
    mean = (torch.tensor(stats.mean)[:, None, None] * 255).expand(inputs.test.shape[1:])
    probs = inputs.probs(mean[None].byte())[0]
    label = int(probs.argmax())
    predictions = inputs.predictions
    rows = inputs.wrong[predictions.preds[inputs.wrong] == label]
    if probs[label] < _MIN_SURE or not len(rows):
        return []
    bias = np.log(np.maximum(probs, 1e-12))
    # Without what an empty picture gets, the answer is another: the prior decided.
    corrected = (predictions.log_probs - bias)[rows].argmax(axis=1)
    hits = rows[corrected == predictions.labels[rows]]
    right = np.flatnonzero(predictions.correct)
    kept = (predictions.log_probs - bias)[right].argmax(axis=1) == predictions.labels[right]
    own = predictions.labels[right] == label
    lost, n = int((own & ~kept).sum()), int(own.sum())
    p = more_often(len(hits), len(rows), lost, n)
    if p >= _ALPHA or kept.mean() < 1 - len(hits) / len(rows):
        return []
    name = inputs.classes[label]
    return [
        Cause(
            kind="prior",
            sentence=(
                f"The network says {name} of an empty picture ({probs[label]:.0%}), and "
                "of others for that reason: {mistakes}."
            ),
            test=(
                f"With the logits of the empty picture taken off, {len(hits):,} of "
                f"{number(len(rows), 'picture')} wrongly taken for {name} turn right, and "
                f"{lost:,} of {number(n, 'picture')} of {name} turn wrong ({as_p(p)}); of all "
                f"pictures that were right, {kept.mean():.0%} stay right."
            ),
            rows=tuple(hits.tolist()),
            advice=f"Add training images of other classes that look like the empty ones of {name}.",
            values={"empty": float(probs[label]), "stay_right": float(kept.mean()), "p": p},
        )
    ]


def training_causes(inputs: CauseInputs) -> tuple[list[Cause], list[str]]:
    """Return mistakes that the network makes on training images like them too, and notes.

    A mistake counts if most of the nearest training images of its class are taken for the same
    wrong class. Images that are right must show the same less often. The notes say how much is
    known by heart. Whether training went on long enough is a check of the doctor, which the page
    shows too.
    """
    features, predictions = inputs.explained.features, inputs.predictions
    chosen = evenly_spaced(len(features.rows), _NUM_TRAIN)
    rows = features.rows[torch.from_numpy(chosen)].numpy()
    preds, labels = inputs.preds(inputs.train_images(rows)), inputs.train_labels[rows]
    accuracy, test = float((preds == labels).mean()), float(predictions.correct.mean())
    notes = []
    if accuracy - test > _GAP:
        notes.append(
            f"The network knows training images by heart: {accuracy:.0%} of them are right, and "
            f"{test:.0%} of the test images. More images or stronger augmentation would help."
        )
    if accuracy > _MAX_FITTED:
        return [], notes
    wrong = predictions.preds[inputs.wrong]
    hits = inputs.wrong[_wrong_in_train_too(inputs, inputs.wrong, wrong, (chosen, preds, labels))]
    # The control are pictures that are right, with the class that came second.
    right = np.flatnonzero(predictions.correct)
    right = right[evenly_spaced(len(right), _NUM_TRAIN)]
    second = predictions.probs[right].argsort(axis=1)[:, -2] if len(right) else right
    by_chance = int(_wrong_in_train_too(inputs, right, second, (chosen, preds, labels)).sum())
    p = more_often(len(hits), len(inputs.wrong), by_chance, len(right))
    if p >= _ALPHA:
        return [], notes
    cause = Cause(
        kind="training",
        sentence="The network has learned too little; it gets training images like these wrong in "
        "the same way: {mistakes}.",
        test=f"Most of the {_NUM_LIKE} nearest training images of the true class are taken for the "
        f"same wrong class, for {share(len(hits), len(inputs.wrong)):.0%} of all mistakes; for "
        f"{share(by_chance, len(right)):.0%} of images that are right, most are taken for the "
        f"class that came second ({as_p(p)}). {accuracy:.0%} of all training images are right.",
        rows=tuple(hits.tolist()),
        advice="Train for longer, or take a larger network.",
        values={
            "train_accuracy": accuracy,
            "test_accuracy": test,
            "by_chance": share(by_chance, len(right)),
            "p": p,
        },
    )
    return [cause], notes


def _wrong_in_train_too(
    inputs: CauseInputs, rows: IntArray, others: IntArray, train: tuple[IntArray, ...]
) -> BoolArray:
    """Whether the nearest training images of the true class are mostly taken for the other class.

    rows: (R,) of the test images; others: (R,) a wrong class for each; train: rows of the features
    of the training images that are compared, with their predictions and labels.
    """
    features, (chosen, preds, labels) = inputs.explained.features, train
    vectors = torch.nn.functional.normalize(features.train[torch.from_numpy(chosen)], dim=1)
    hits, true = np.zeros(len(rows), dtype=bool), inputs.predictions.labels[rows]
    for label in range(len(inputs.classes)):
        members, at = np.flatnonzero(labels == label), np.flatnonzero(true == label)
        if len(members) < _NUM_LIKE or not len(at):
            continue
        queries = torch.nn.functional.normalize(features.test[torch.from_numpy(rows[at])], dim=1)
        nearest = (queries @ vectors[torch.from_numpy(members)].T).topk(_NUM_LIKE, dim=1).indices
        same = preds[members[nearest.numpy()]] == others[at][:, None]
        hits[at] = same.mean(axis=1) > 0.5
    return hits
