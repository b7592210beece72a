"""Labels that are replaced and images that are left out, by tables of ids."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import resight
from resight.datasets import Dataset
from resight.errors import UsageError
from resight.files import write_csv
from resight.interpret.explain import explain
from resight.metrics.mistakes import LabelIssue, csv_rows
from resight.runs.inference import evaluate
from tiny_runs import tiny_recipe

# Of `tiny`, the image train/k and the image test/k have the class k mod 3: disc, bar or frame.


def table(tmp_path: Path, text: str, name: str = "labels.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def classes_of(dataset: Dataset, split: str) -> dict[str, str]:
    part = dataset.splits[split]
    return {id: dataset.classes[k] for id, k in zip(part.ids, part.labels.tolist(), strict=True)}


def test_labels_of_every_split_are_replaced_and_counted(tmp_path: Path, tiny: Dataset) -> None:
    path = table(
        tmp_path,
        "id,label\ntrain/0,bar\ntrain/3,bar\ntrain/1,frame\ntrain/2,frame\ntest/4,disc\ntest/5,\n",
    )
    new = resight.corrected(tiny, relabel=path)
    changed = {"train/0": "bar", "train/3": "bar", "train/1": "frame", "test/4": "disc"}
    for split in ("train", "test"):
        before = classes_of(tiny, split)
        expected = {id: changed.get(id, label) for id, label in before.items()}
        assert classes_of(new, split) == expected
    assert new.notes == (
        "labels that labels.csv changes: 4 (3 train, 1 test); 2 from disc to bar, 1 from bar to "
        "frame, 1 from bar to disc; as they were before: 1",
        "test labels are among them (1), so compare the accuracy only with runs on the same labels",
    )
    assert torch.equal(tiny.train.labels, torch.arange(91) % 3)  # the data given is as it was
    assert torch.equal(new.train.images, tiny.train.images)


def test_images_of_every_split_are_left_out(tmp_path: Path, tiny: Dataset) -> None:
    val = replace(tiny, val=tiny.test.select(torch.arange(6)))
    val = replace(val, test=tiny.test.select(torch.arange(6, 31)))
    new = resight.corrected(val, exclude=table(tmp_path, "id\ntrain/7\ntest/2\ntest/30\n"))
    assert new.val is not None
    assert new.train.ids == tuple(f"train/{k}" for k in range(91) if k != 7)
    assert new.val.ids == tuple(f"test/{k}" for k in (0, 1, 3, 4, 5))
    assert new.test.ids == tuple(f"test/{k}" for k in range(6, 30))
    assert torch.equal(new.train.images[7], tiny.train.images[8])
    assert new.notes == ("images that labels.csv leaves out: 3 (1 train, 1 val, 1 test)",)


@pytest.mark.parametrize(
    "text",
    [
        "id\ntrain/7\ntest/2\n",
        "train/7\ntest/2\n",  # no header
        "train/7\r\n\r\ntest/2",
        "given;ID\ndisc;train/7\nbar;test/2\n",
        "\ufeffid\tnote\r\ntrain/7\tdark\r\ntest/2\tblurred, dark\r\n",
        "id,true,pred\ntrain/7,bar,disc\ntest/2,frame,disc\ntest/2,frame,disc\n",
    ],
)
def test_tables_of_ids_as_programs_write_them(tmp_path: Path, tiny: Dataset, text: str) -> None:
    new = resight.corrected(tiny, exclude=table(tmp_path, text))
    assert set(tiny.train.ids + tiny.test.ids) - set(new.train.ids + new.test.ids) == {
        "train/7",
        "test/2",
    }


def test_tables_may_be_python(tiny: Dataset) -> None:
    new = resight.corrected(tiny, relabel={"train/0": "frame"}, exclude=["train/1", "train/0"])
    assert new.train.ids[0] == "train/2"
    assert new.notes[0] == "labels that relabel changes: 0; as they were before: 1"


def test_the_table_of_label_issues_is_a_table_of_labels_once_it_has_the_column(
    tmp_path: Path, tiny: Dataset
) -> None:
    ids = ("=train/0", "train/1")  # a spreadsheet would run the first as a formula
    named = replace(tiny, train=replace(tiny.train, ids=(*ids, *tiny.train.ids[2:])))
    issues = [LabelIssue(k, id, "disc", "frame", 0.1, 0.8, -0.7) for k, id in enumerate(ids)]
    path = tmp_path / "label_issues.csv"
    write_csv(path, csv_rows(LabelIssue, issues))
    with pytest.raises(UsageError, match=r"id, given, suggested, .* it needs id and label"):
        resight.corrected(named, relabel=path)
    text = path.read_text(encoding="utf-8").replace("suggested", "label", 1)
    new = resight.corrected(named, relabel=table(tmp_path, text))
    assert new.train.labels[:3].tolist() == [2, 2, 2]


REFUSED: dict[str, tuple[str, str, str]] = {
    "unknown id": ("relabel", "id,label\ntrain/910,bar\n", r"has the id 'train/910', .*; did you"),
    "id of another folder": ("relabel", "id,label\n7,bar\n", r"'7', .* mean \"train/7\"\?"),
    "unknown class": ("relabel", "id,label\ntrain/7,baar\n", r"'baar', which is no .* mean \"bar"),
    "two labels": ("relabel", "id,label\ntrain/7,bar\ntrain/7,disc\n", r"row 3 of .*'train/7' the"),
    "no label": ("relabel", "id,class\ntrain/7,bar\n", r"has the columns id, class; it needs id"),
    "short row": ("relabel", "id,label\ntrain/7\n", r"row 2 of .* has 1 cells"),
    "empty table": ("relabel", "", r"has the columns \(none\)"),
    "no ids": ("exclude", "name\ntrain/7\n", r"has no column id, and 'name' is no id"),
    "unknown excluded id": ("exclude", "train/7\nrain/8\n", r"'rain/8', .* mean \"train/8\""),
    "a cell without an end": ("exclude", "id\n" + "x" * 200_000, r"is no CSV file: field larger"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_table_is_one_line(tmp_path: Path, tiny: Dataset, case: str) -> None:
    setting, text, message = REFUSED[case]
    path = table(tmp_path, text)
    with pytest.raises(UsageError, match=message) as refusal:
        resight.corrected(tiny, **{setting: path})
    assert "\n" not in str(refusal.value)


def test_a_table_that_cannot_be_read(tmp_path: Path, tiny: Dataset) -> None:
    with pytest.raises(UsageError, match=r"missing\.csv cannot be read: No such file"):
        resight.corrected(tiny, relabel=tmp_path / "missing.csv")
    with pytest.raises(UsageError, match="is a folder"):
        resight.corrected(tiny, relabel=tmp_path)
    (tmp_path / "latin.csv").write_bytes("id,label\ntrain/0,Möwe\n".encode("latin-1"))
    with pytest.raises(UsageError, match="is not UTF-8"):
        resight.corrected(tiny, relabel=tmp_path / "latin.csv")
    with pytest.raises(UsageError, match=r"data\.relabel = '.*missing\.csv' does not exist"):
        resight.train(tiny_recipe("data.relabel=missing.csv"), data=tiny, out=tmp_path)


def test_something_is_left_of_every_class_and_split(tiny: Dataset) -> None:
    with pytest.raises(UsageError, match="exclude leaves no test image"):
        resight.corrected(tiny, exclude=tiny.test.ids)
    bars = [f"train/{k}" for k in range(91) if k % 3 == 1]
    with pytest.raises(UsageError, match="exclude leaves no training image of class 'bar'"):
        resight.corrected(tiny, exclude=bars)
    with pytest.raises(UsageError, match="relabel leaves no training image of class 'bar'"):
        resight.corrected(tiny, relabel=dict.fromkeys(bars, "disc"))


def test_an_id_of_two_images_cannot_be_corrected(tiny: Dataset) -> None:
    ids = ("train/0", *tiny.test.ids[1:])
    twice = replace(tiny, test=replace(tiny.test, ids=ids))
    with pytest.raises(UsageError, match="'train/0', which several images of the data have"):
        resight.corrected(twice, exclude=["train/0"])


@pytest.mark.slow
def test_a_run_keeps_its_tables(tmp_path: Path) -> None:
    digits = resight.data("digits")
    labels = table(tmp_path, f"id,label\n{digits.train.ids[0]},5\n{digits.test.ids[1]},5\n")
    ids = table(tmp_path, f"{digits.train.ids[5]}\n{digits.test.ids[0]}\n", "ids.csv")
    settings = (f"data.relabel={labels}", f"data.exclude={ids}", "data.source=digits")
    run = resight.train(tiny_recipe(*settings), out=tmp_path / "runs", name="run")
    assert run.summary is not None
    assert run.summary.data.test == len(digits.test) - 1
    assert any(
        note.startswith("labels that labels.csv changes: 2 (") for note in run.summary.data.notes
    )
    labels.write_text(f"id,label\n{digits.train.ids[0]},7\n")
    ids.unlink()
    result = evaluate(run)
    assert result.test.accuracy == run.test.accuracy
    assert result.predictions.labels[0] == 5
    assert len(explain(run).mistakes) == (~result.predictions.correct).sum()
    assert resight.resume(run.folder).test.accuracy == run.test.accuracy
    (run.folder / "relabel.csv").write_text(labels.read_text())
    with pytest.raises(UsageError, match="has changed since the run was trained"):
        evaluate(run)
