"""One folder, one class: what is written comes back, and what is damaged is a line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import resight
from report_runs import epoch, make_predictions, make_run, summary
from resight.errors import ResightError, UsageError
from resight.files import write_csv
from resight.records import History
from resight.runs import parts
from resight.runs.run import Run

RECIPE = resight.with_overrides(
    resight.load_recipe("digits"), ["schedule.epochs=3", "schedule.peak_epoch=1"]
)
PREDICTIONS = make_predictions()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run without weights and pictures."""
    return make_run(tmp_path / "a", RECIPE, PREDICTIONS, gallery=False)


def test_what_is_written_comes_back(folder: Path) -> None:
    steps = {"lrs": [0.1, 0.2, 0.1], "momenta": [np.nan, 0.9, 0.8], "losses": [2.0, 1.5, 1.0]}
    history = History((epoch(1),), **{name: np.array(values) for name, values in steps.items()})
    Run(folder).write_history(history)
    run = Run.open(folder)
    assert run.recipe == RECIPE
    assert run.summary == summary(RECIPE, PREDICTIONS)
    assert run.predictions is not None
    assert (run.predictions.ids, run.predictions.classes) == (PREDICTIONS.ids, PREDICTIONS.classes)
    assert np.array_equal(run.predictions.logits, PREDICTIONS.logits)
    assert np.array_equal(run.predictions.labels, PREDICTIONS.labels)
    assert run.history.epochs == history.epochs
    for name, values in steps.items():
        assert np.array_equal(getattr(run.history, name), values, equal_nan=True)
    assert run.gallery is None
    assert json.loads(json.dumps(run.to_dict()))["test"]["images"] == len(PREDICTIONS)


def test_predictions_are_the_same_bytes_and_names_may_be_anything(tmp_path: Path) -> None:
    odd = make_predictions(3, ("caf\u00e9, au lait", 'say "x"\n', "\udcff"))
    odd = replace(odd, ids=("a,b", "line\nbreak", "\udc80.png"))
    one, two = (make_run(tmp_path / name, RECIPE, odd, gallery=False) for name in "ab")
    assert (one / "predictions.npz").read_bytes() == (two / "predictions.npz").read_bytes()
    again = Run.open(one).predictions
    assert again is not None
    assert (again.ids, again.classes) == (odd.ids, odd.classes)


@pytest.mark.parametrize(
    ("name", "content", "missing"),
    [
        ("summary.json", b"[]", ("summary", "predictions")),
        ("summary.json", b'{"format": 3, "test": 1}', ("summary",)),
        ("predictions.npz", b"", ("predictions",)),
        ("predictions.npz", b"PK nonsense", ("predictions",)),
        ("metrics.jsonl", b'{"epoch": 1}\n', ()),
        ("steps.npz", b"", ()),
        ("lr_find.json", b'{"lrs": [1]}', ("lr_curve",)),
        ("env.json", b"{", ("environment",)),
        ("label_issues.csv", b"a,b\n", ()),
        ("gallery/gallery.json", b"{}", ("gallery",)),
    ],
)
def test_a_damaged_file_is_a_line_and_the_rest_is_read(
    folder: Path, name: str, content: bytes, missing: tuple[str, ...]
) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    run = Run.open(folder)
    for part in missing:
        assert getattr(run, part) is None
    line = f"{name.partition('/')[0]} is damaged and was passed over: "
    assert [text for text in run.missing if text.startswith(line) and "\n" not in text]
    assert run.recipe == RECIPE


@pytest.mark.parametrize(
    "name", ["summary.json", "predictions.npz", "metrics.jsonl", "label_issues.csv", "env.json"]
)
def test_a_link_to_a_device_is_a_line(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert [line for line in Run.open(folder).missing if line.startswith(f"{name} is damaged")]


def test_label_issues_come_back_as_they_were(folder: Path) -> None:
    rows = [["id", "given"], ["=1.png", "'@x"], ["a\rb.png", "-"]]
    write_csv(folder / "label_issues.csv", rows)
    assert [list(row.values()) for row in Run.open(folder).label_issues] == rows[1:]


@pytest.mark.parametrize("change", [{"lrs": [0.1, -1]}, {"interval": []}, {"losses": [1]}])
def test_a_range_test_that_cannot_be_drawn_is_damaged(
    folder: Path, change: dict[str, list[float]]
) -> None:
    content = json.loads((folder / "lr_find.json").read_text())
    Run(folder).write_json("lr_find.json", content | change)
    run = Run.open(folder)
    assert run.lr_curve is None
    assert any(line.startswith("lr_find.json is damaged") for line in run.missing)


@pytest.mark.parametrize("name", ["ids", "logits", "labels", "classes"])
def test_predictions_that_do_not_fit_each_other_are_damaged(folder: Path, name: str) -> None:
    file = folder / "predictions.npz"
    with np.load(file) as arrays:
        np.savez(file, **{**arrays, name: arrays[name][1:]})
    run = Run.open(folder)
    assert run.predictions is None
    assert any(line.startswith("predictions.npz is damaged") for line in run.missing)


def test_a_changed_byte_of_the_predictions_is_noticed(folder: Path) -> None:
    file = folder / "predictions.npz"
    content = file.read_bytes()
    size = len(content)  # the table of contents is at the end
    for at in (*range(0, size, 40), *range(size - 300, size, 3)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            again = parts.read_predictions(file, images=len(PREDICTIONS))
        except parts.DAMAGE:
            continue
        assert (again.ids, again.classes) == (PREDICTIONS.ids, PREDICTIONS.classes)
        assert np.array_equal(again.logits, PREDICTIONS.logits)
        assert np.array_equal(again.labels, PREDICTIONS.labels)


def test_predictions_of_another_number_of_images_are_refused(folder: Path) -> None:
    Run(folder).write_predictions(make_predictions(5))
    assert Run.open(folder).predictions is None


def test_a_run_that_was_stopped_has_no_test_result(folder: Path) -> None:
    Run(folder).write_json("summary.json", summary(RECIPE, None).to_dict())
    run = Run.open(folder)
    assert run.predictions is None
    with pytest.raises(ResightError, match=r"stopped before its end.*resight resume"):
        _ = run.test


def test_runs_of_another_version_are_refused_by_one_line(folder: Path) -> None:
    content = json.loads((folder / "summary.json").read_text())
    del content["format"]
    (folder / "summary.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"run format 1; this version reads 3.*train") as error:
        Run.open(folder)
    assert "\n" not in str(error.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a run folder: it holds no recipe\.toml"):
        Run.open(tmp_path)
    with pytest.raises(UsageError, match="is not a run folder: it does not exist"):
        Run.open(tmp_path / "gone")


def test_one_process_at_a_time(folder: Path) -> None:
    with (
        FileLock(folder / ".lock"),
        pytest.raises(UsageError, match="another process is training"),
        Run(folder).lock(),
    ):
        pass
    for _ in range(2):  # the lock is released
        with Run(folder).lock():
            pass
