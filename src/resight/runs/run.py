"""One folder a run: what was asked, what happened, and enough to go on or to ask the model again.

    recipe.toml          every setting, resolved        metrics.jsonl, .csv   a line an epoch
    env.json             versions, machine, command  summary.json          the result
    last.pt, previous.pt resume from here            best.safetensors      the chosen weights
    predictions.csv, confusion_matrix.csv, *.png     README.md             model card

Every file is written whole or not at all. `previous.pt` is the checkpoint before `last.pt`, for
when that one cannot be read.
"""

import io
import json
import os
import pickle
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors
from torch import Tensor, nn

from ..datasets import Statistics
from ..errors import ResightError, UsageError
from ..files import atomic_write, move, write_csv, write_text
from ..metrics.classification import confusion_rows, prediction_rows
from ..recipe import Recipe
from ..recipe.toml import from_toml, to_toml
from ..records import History, Predictions
from .environment import environment

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

FORMAT_VERSION = 1  # of checkpoints


@dataclass(frozen=True)
class ModelInfo:
    """What weights need beside themselves to be used: kept in the head of `best.safetensors`."""

    recipe: Recipe
    classes: tuple[str, ...]
    stats: Statistics
    channels: int
    image_size: int
    epoch: int


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, by name."""

    path: Path

    @staticmethod
    def create(
        path: Path,
        recipe: Recipe,
        state: Mapping[str, Any],
        *,
        fingerprint: str,
        force: bool = False,
        device: str = "cpu",
        devices: int = 1,
    ) -> "RunFolder":
        """A new folder that can be resumed; with `force`, in place of a run that is there.

        It appears whole: a process killed in between leaves nothing at `path`, or the old run.

        Raises:
            UsageError: it cannot be made, or another run took the name in the meantime.
        """
        making = path.with_name(f".{path.name}.{os.getpid()}.part")
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        try:
            making.mkdir(parents=True)
            folder = RunFolder(making)
            write_text(making / "recipe.toml", to_toml(recipe))
            folder.write_json("env.json", environment(device, devices))
            folder.save_checkpoint(recipe, state, fingerprint=fingerprint)
            if force and path.exists():
                move(path, old)
            move(making, path)  # refuses a folder with something in it
        except OSError as error:
            if old.exists() and not path.exists():
                move(old, path)
            if path.exists() and not force:
                raise UsageError(_taken(path)) from error
            raise UsageError(
                f"cannot make the run folder {path}: {error.strerror}; choose another --out"
            ) from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        return RunFolder(path)

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """The folder of an earlier run.

        Raises:
            UsageError: it does not exist or holds no run.
        """
        if not (path / "recipe.toml").is_file():
            fault = "holds no recipe.toml" if path.is_dir() else "does not exist"
            raise UsageError(f"{path} is not a run folder: it {fault}; see `ls runs/`")
        return RunFolder(path)

    @staticmethod
    def newest(out: Path) -> "RunFolder":
        """The run under `out` that was trained last; explaining one does not count."""
        runs = [p.parent for p in out.glob("[!.]*/recipe.toml")]
        if not runs:
            raise UsageError(f"there is no run in {out}/; name a run folder")
        return RunFolder(max(runs, key=_trained_at))

    @property
    def recipe(self) -> Recipe:
        """The recipe the run was started with."""
        file = self.path / "recipe.toml"
        try:
            return from_toml(file.read_text(encoding="utf-8"), origin=str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read: {error}") from error

    # --- checkpoints ------------------------------------------------------------------------

    def save_checkpoint(
        self, recipe: Recipe, state: Mapping[str, Any], *, fingerprint: str
    ) -> None:
        """Write `last.pt`; the one before it becomes `previous.pt`."""
        last = self.path / "last.pt"
        content = {
            "format": FORMAT_VERSION,
            "recipe": to_toml(recipe),
            "fingerprint": fingerprint,
            "state": dict(state),
        }
        # By way of memory: torch reports a full disk as a RuntimeError among many.
        written = io.BytesIO()
        torch.save(content, written)
        with atomic_write(last) as temporary:
            temporary.write_bytes(written.getbuffer())
            if last.exists():
                move(last, self.path / "previous.pt")

    def load_checkpoint(self) -> tuple[dict[str, Any], list[str]]:
        """The newest checkpoint that can be read, on the CPU, and a line for each that could not.

        Raises:
            ResightError: there is none.
        """
        faults: list[str] = []
        for name in ("last.pt", "previous.pt"):
            file = self.path / name
            if not file.exists():
                faults.append(f"{file} is missing")
            elif (content := _read_checkpoint(file)) is None:
                faults.append(f"{file} is damaged and was passed over")
            elif content["format"] == FORMAT_VERSION:
                return content, faults
            else:
                faults.append(f"{file} is of another version of resight (see env.json)")
        raise ResightError(f"{self.path} has no checkpoint to resume from: {'; '.join(faults)}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from training in this folder; a killed one keeps nobody out.

        Raises:
            UsageError: another process is at work here.
        """
        if fcntl is None:  # Windows
            yield
            return
        with open(self.path / "recipe.toml", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is training in {self.path}; wait for it, or stop it first"
                ) from error
            yield

    # --- weights ----------------------------------------------------------------------------

    def save_best(self, model: nn.Module, info: ModelInfo) -> None:
        """Write `best.safetensors`: weights, with all that is needed to use them in its head."""
        head = {
            "recipe": to_toml(info.recipe),
            "classes": info.classes,
            "stats": asdict(info.stats),
            "channels": info.channels,
            "image_size": info.image_size,
            "epoch": info.epoch,
        }
        # One entry: several are written in an order that changes from run to run.
        metadata = {"resight": json.dumps(head)}
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        with atomic_write(self.path / "best.safetensors") as temporary:
            temporary.write_bytes(format_safetensors(weights, metadata=metadata))

    def load_best(self) -> tuple[dict[str, Tensor], ModelInfo]:
        """The chosen weights and what belongs to them.

        Raises:
            ResightError: the run has none yet, or the file is damaged.
        """
        file = self.path / "best.safetensors"
        if not file.exists():
            raise ResightError(
                f"{self.path} has no best.safetensors: no epoch was finished; "
                f"go on with `resight resume {self.path}`"
            )
        try:
            content = file.read_bytes()
            weights = parse_safetensors(content)
            head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            kept = json.loads(head["__metadata__"]["resight"])
            return weights, ModelInfo(
                recipe=from_toml(kept["recipe"], origin=str(file)),
                classes=tuple(kept["classes"]),
                stats=Statistics(*(tuple(kept["stats"][name]) for name in ("mean", "std"))),
                channels=kept["channels"],
                image_size=kept["image_size"],
                epoch=kept["epoch"],
            )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ResightError(f"{file} is damaged: {error}") from error

    # --- results ----------------------------------------------------------------------------

    def read_summary(self) -> dict[str, Any]:
        """`summary.json`.

        Raises:
            ResightError: the run has none yet, or it is damaged.
        """
        file = self.path / "summary.json"
        try:
            summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return summary
        except FileNotFoundError as error:
            raise ResightError(
                f"{self.path} has no summary.json: it is not finished; "
                f"go on with `resight resume {self.path}`"
            ) from error
        except (OSError, ValueError) as error:
            raise ResightError(f"{file} is damaged: {error}") from error

    def write_history(self, history: History) -> None:
        """`metrics.jsonl` and `metrics.csv`, a line an epoch."""
        rows = [asdict(row) for row in history.epochs]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        if rows:
            self.write_csv("metrics.csv", [list(rows[0]), *(list(row.values()) for row in rows)])

    def write_predictions(self, predictions: Predictions) -> None:
        """`predictions.csv` and `confusion_matrix.csv`."""
        self.write_csv("predictions.csv", prediction_rows(predictions))
        self.write_csv("confusion_matrix.csv", confusion_rows(predictions))

    def write_csv(self, name: str, rows: Iterable[Sequence[object]]) -> None:
        """Rows, the first of them the header; None becomes an empty cell."""
        write_csv(self.path / name, rows)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Plain Python as indented JSON."""
        write_text(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def new_run_path(out: Path, name: str | None, recipe: Recipe, *, force: bool) -> Path:
    """Where a new run goes: under `out`, by default named after the time and the recipe.

    Raises:
        UsageError: something is there, and `force` was not given or it is not a run.
    """
    path = out / (name or f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}")
    if not path.exists():
        return path
    if not force:
        raise UsageError(_taken(path))
    if not path.is_dir() or (any(path.iterdir()) and not (path / "recipe.toml").exists()):
        raise UsageError(
            f"{path} exists and is not a run folder, so --force will not replace it; "
            "choose another --name"
        )
    return path


def _trained_at(run: Path) -> float:
    checkpoint = run / "last.pt"
    return (checkpoint if checkpoint.exists() else run / "recipe.toml").stat().st_mtime


def _taken(path: Path) -> str:
    return (
        f"{path} exists already; choose another --name, go on with it by "
        f"`resight resume {path}`, or pass --force to replace it"
    )


def _read_checkpoint(file: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, or None if any byte of its content is not as written."""
    try:
        with zipfile.ZipFile(file) as parts:  # torch's format; torch does not check the sums
            if parts.testzip() is not None:
                return None
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return content if {"format", "recipe", "fingerprint", "state"} <= set(content) else None
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError):
        return None
    except (EOFError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error):
        return None
