"""A run that takes the place of an older one, which is kept until the new run has proven itself.

`train --force` moves the files of the old run into `.replaced` inside the folder; files that
resight has not written stay where they are. When the new run has finished its first epoch, the old
files are removed. If the new run fails before that, they are put back. A process may be killed
between any two moves:

    .replaced.part   holds some of the old run's files, and the folder the rest of them
    .replaced        holds all of them, and the folder has files of the new run alone

`put_back_if_half` makes the old run whole again in the first case, and in the second case if the
new run cannot be resumed.
"""

import shutil
from pathlib import Path

from ..errors import UsageError
from ..files import move
from .parts import DAMAGE, read_json

ASIDE, MOVING = ".replaced", ".replaced.part"
LOCK = ".lock"

_PREDICTIONS = (
    *("summary.json", "predictions.npz", "predictions.csv", "confusion_matrix.csv"),
    *("confusion_matrix.png", "reliability.png", "per_class.png"),
    *("misclassified.png", "correct.png"),
)
# What resight writes into a run folder. A test compares it with a run that has everything.
RUN_FILES = (
    *("recipe.toml", "env.json", "last.pt", "previous.pt", "best.safetensors", "README.md"),
    *("log.txt", "tensorboard/events.out.tfevents.*"),
    *("confidence.npz", "trained_images.npz"),
    *("metrics.jsonl", "metrics.csv", "steps.npz", "curves.png", "rates.png", "schedule.png"),
    *("lr_find.json", "lr_find.png", "mistakes.csv", "confused_pairs.png", "heatmaps.csv"),
    *("label_issues.csv", "label_issues.png", "report.html", *_PREDICTIONS),
    *("relabel.csv", "exclude.csv", "causes.json", "causes.csv"),
    *("misclassified_*.png", "correct_*.png"),
    *("gallery/gallery.json", "gallery/pictures-*.webp", "gallery/maps-*.png"),
    "gallery/train-*.webp",
    *(f"evaluation-*/{name}" for name in _PREDICTIONS),
    *("explain-*/*.png", "model.onnx", "model.pt2"),
    *("hub/model.safetensors", "hub/config.json", "hub/README.md"),
)


def check_is_run(folder: Path) -> None:
    """Refuse to replace a folder that is neither empty nor a run of resight.

    Raises:
        UsageError: it is something else; a file called recipe.toml does not make it a run.
    """
    if folder.is_dir() and not any(path.name != LOCK for path in folder.iterdir()):
        return
    half = any((folder / name).is_dir() for name in (ASIDE, MOVING))
    try:
        is_run = "resight" in read_json(folder / "env.json") and (folder / "recipe.toml").is_file()
    except DAMAGE:
        is_run = False
    if not (is_run or half):
        raise UsageError(
            f"{folder} exists and is not a run folder, so --force will not replace it; "
            "choose another --name"
        )


def set_aside(folder: Path) -> None:
    """Move the files of the run in `folder` into `.replaced`; call it under the run's lock."""
    put_back_if_half(folder, resumable=False)
    _move_files(folder, folder / MOVING)
    move(folder / MOVING, folder / ASIDE)


def put_back(folder: Path) -> None:
    """Remove the files of the new run, and put the old run's back."""
    if not (folder / ASIDE).is_dir():
        return
    for file in _files(folder):
        file.unlink()
    _remove_empty(folder)
    move(folder / ASIDE, folder / MOVING)
    put_back_if_half(folder)


def put_back_if_half(folder: Path, *, resumable: bool = True) -> None:
    """Make the old run whole again after a kill, where no new run took its place.

    With `resumable` false a new run that has not proven itself makes way as well.
    """
    if (folder / MOVING).is_dir():
        _move_files(folder / MOVING, folder)
        shutil.rmtree(folder / MOVING)
    elif not (resumable and (folder / "last.pt").exists()) and not is_proven(folder):
        put_back(folder)
    remove_replaced(folder)


def remove_replaced(folder: Path) -> None:
    """Remove the old run's files if the new run has proven itself."""
    if (folder / ASIDE).is_dir() and is_proven(folder):
        shutil.rmtree(folder / ASIDE, ignore_errors=True)


def is_proven(folder: Path) -> bool:
    """Whether the run in `folder` has finished an epoch: then its weights are there."""
    return (folder / "best.safetensors").exists()


def is_replacing(folder: Path) -> bool:
    """Whether an old run waits in the folder for the new one to prove itself."""
    return (folder / ASIDE).is_dir() and not is_proven(folder)


def _files(folder: Path) -> list[Path]:
    """The files of a run in a folder, `last.pt`, by which it can be resumed, first."""
    files = {file for pattern in RUN_FILES for file in folder.glob(pattern) if not file.is_dir()}
    return sorted(files, key=lambda file: (file.name != "last.pt", file))


def _move_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in _files(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        move(file, place)
    _remove_empty(source)


def _remove_empty(folder: Path) -> None:
    """Remove the folders of a run that have become empty; one with foreign files stays."""
    for name in {pattern.split("/")[0] for pattern in RUN_FILES if "/" in pattern}:
        for path in folder.glob(name):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
