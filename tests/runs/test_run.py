"""One folder, one class: what is written comes back, and what is damaged is a line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

import resight
from resight.datasets import Dataset
from resight.errors import ResightError, UsageError
from resight.metrics import classification
from resight.metrics.intervals import Interval
from resight.recipe.toml import to_toml
from resight.records import EpochRow, History, Predictions
from resight.runs.run import Run
from resight.runs.summary import DataSummary, ModelSummary, Summary, ValidationResult

RECIPE = resight.with_overrides(
    resight.load_recipe("digits"), ["schedule.epochs=1", "schedule.peak_epoch=0.5"]
)


def predictions(n: int = 7, classes: tuple[str, ...] = ("a", "b", "c")) -> Predictions:
    rng = np.random.default_rng(0)
    return Predictions(
        ids=tuple(f"folder/{row}" for row in range(n)),
        logits=rng.normal(size=(n, len(classes))).astype(np.float32),
        labels=rng.integers(0, len(classes), n),
        classes=classes,
    )


def summary(said: Predictions) -> Summary:
    return Summary(
        recipe="digits",
        data=DataSummary("digits", 3, 20, 4, len(said), "f" * 64, ("a note",)),
        model=ModelSummary("swift", 12_345),
        epochs=1,
        steps=3,
        best_epoch=1,
        selected_by="val_accuracy",
        validation=ValidationResult(Interval(0.5, 0.1, 0.9, 4), 0.7),
        test=classification.test_result(said),
        train_secs=1.5,
    )


HISTORY = History(
    epochs=(
        EpochRow(
            epoch=1,
            step=3,
            lr=0.1,
            train_loss=1.0,
            train_accuracy=0.5,
            val_loss=0.7,
            val_accuracy=0.5,
            train_secs=1.5,
            images_per_sec=13.0,
        ),
    ),
    lrs=np.array([0.1, 0.2, 0.1]),
    momenta=np.array([np.nan, 0.9, 0.8]),
    losses=np.array([2.0, 1.5, 1.0]),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run without weights and pictures."""
    (tmp_path / "recipe.toml").write_text(to_toml(RECIPE))
    run, said = Run(tmp_path), predictions()
    run.write_predictions(said)
    run.write_json("summary.json", summary(said).to_dict())
    run.write_history(HISTORY)
    return tmp_path


def test_what_is_written_comes_back(folder: Path) -> None:
    run = resight.Run.open(folder)
    said = predictions()
    assert run.recipe == RECIPE
    assert run.summary == summary(said)
    assert run.predictions is not None
    assert (run.predictions.ids, run.predictions.classes) == (said.ids, said.classes)
    assert np.array_equal(run.predictions.logits, said.logits)
    assert np.array_equal(run.predictions.labels, said.labels)
    assert run.history.epochs == HISTORY.epochs
    for name in ("lrs", "momenta", "losses"):
        assert np.array_equal(getattr(run.history, name), getattr(HISTORY, name), equal_nan=True)
    assert run.test.accuracy.n == 7
    assert (run.gallery, run.lr_curve, run.label_issues) == (None, None, [])
    assert json.loads(json.dumps(run.to_dict()))["test"]["images"] == 7


def test_predictions_are_the_same_bytes_and_names_may_be_anything(tmp_path: Path) -> None:
    odd = predictions(3, ("caf\u00e9, au lait", 'say "x"\n', "\udcff"))
    odd = replace(odd, ids=("a,b", "line\nbreak", "\udc80.png"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Run(tmp_path / name).write_predictions(odd)
    one, two = (tmp_path / name / "predictions.npz" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    (tmp_path / "one" / "recipe.toml").write_text(to_toml(RECIPE))
    Run(tmp_path / "one").write_json("summary.json", summary(odd).to_dict())
    again = Run.open(tmp_path / "one").predictions
    assert again is not None
    assert (again.ids, again.classes) == (odd.ids, odd.classes)


@pytest.mark.parametrize(
    ("name", "content", "gone"),
    [
        ("summary.json", b"[]", ("summary", "predictions")),
        ("summary.json", b'{"format": 2}', ("summary",)),
        ("predictions.npz", b"PK nonsense", ("predictions",)),
        ("metrics.jsonl", b'{"epoch": 1}\n', ()),
        ("steps.npz", b"", ()),
        ("lr_find.json", b"{}", ("lr_curve",)),
        ("env.json", b"{", ("environment",)),
    ],
)
def test_a_damaged_file_is_a_line_and_the_rest_is_read(
    folder: Path, name: str, content: bytes, gone: tuple[str, ...]
) -> None:
    (folder / name).write_bytes(content)
    run = Run.open(folder)
    for part in gone:
        assert getattr(run, part) is None
    _ = run.lr_curve
    assert [line for line in run.missing if line.startswith(f"{name} is damaged")], run.missing
    assert run.recipe == RECIPE


def test_every_byte_of_the_predictions_is_checked(folder: Path) -> None:
    file = folder / "predictions.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    run = Run.open(folder)
    assert run.predictions is None
    assert any("predictions.npz is damaged" in line for line in run.missing)


def test_predictions_of_another_number_of_images_are_refused(folder: Path) -> None:
    Run(folder).write_predictions(predictions(5))
    assert Run.open(folder).predictions is None


def test_a_run_that_was_stopped_has_no_test_result(folder: Path) -> None:
    stopped = replace(summary(predictions()), test=None)
    Run(folder).write_json("summary.json", stopped.to_dict())
    run = Run.open(folder)
    assert run.predictions is None
    with pytest.raises(ResightError, match=r"stopped before its end.*resight resume"):
        _ = run.test


def test_runs_of_another_version_are_refused_by_one_line(folder: Path) -> None:
    content = json.loads((folder / "summary.json").read_text())
    del content["format"]
    (folder / "summary.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"run format 1; this version reads 2.*train") as error:
        Run.open(folder)
    assert "\n" not in str(error.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no recipe\.toml"):
        Run.open(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        Run.open(tmp_path / "gone")


def test_one_process_at_a_time(folder: Path) -> None:
    with (
        FileLock(folder / ".lock"),
        pytest.raises(UsageError, match="another process is training"),
        Run(folder).lock(),
    ):
        pass
    with Run(folder).lock():
        pass


def test_the_trained_network_comes_back(tmp_path: Path, tiny: Dataset) -> None:
    recipe = resight.with_overrides(
        RECIPE, ["model.widths=[8,8,8]", "explain.report=false", "training.batch_size=32"]
    )
    run = resight.train(recipe, data=tiny, out=tmp_path, name="a", device="cpu")
    network = resight.Run.open(run.folder).model()
    assert not network.training
    assert run.predictions is not None
    assert run.predictions.ids == tiny.test.ids
    result = resight.evaluate(run, data=tiny, device="cpu")
    assert np.array_equal(result.predictions.logits, run.predictions.logits)
    assert result.test == run.test
    assert isinstance(network(torch.zeros(1, 3, 16, 16)), torch.Tensor)
