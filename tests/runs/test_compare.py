"""Runs side by side, from folders written by hand: figures, settings, means over seeds, flips."""

import csv
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import report_runs
import resight
from resight.cli.app import main
from resight.errors import UsageError
from resight.metrics.intervals import wilson
from resight.records import IntArray, Predictions
from resight.runs import flips
from resight.runs.gallery import write_gallery

CLASSES = ("cat", "dog")
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 1])


def make_run(
    path: Path,
    wrong: set[int],
    *settings: str,
    ids: str = "test",
    fingerprint: str = "f",
    labels: IntArray = LABELS,
) -> Path:
    """Write a finished run's folder, without its weights: right about all images but some rows."""
    preds = np.where(np.isin(np.arange(8), list(wrong)), 1 - labels, labels)
    logits = 3 * np.eye(2, dtype=np.float32)[preds]
    predictions = Predictions(tuple(f"{ids}/{i}" for i in range(8)), logits, labels, CLASSES)
    recipe = resight.with_overrides(resight.load_recipe("digits"), list(settings))
    summary = replace(report_runs.summary(recipe, predictions), validation=None)
    summary = replace(summary, data=replace(summary.data, fingerprint=fingerprint))
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(resight.to_toml(recipe))
    run = resight.Run(path)
    run.write_predictions(predictions)
    run.write_json("summary.json", summary.to_dict())
    return path


def changed_summary(folder: Path, **changes: object) -> None:
    """Change entries of a run's `summary.json`."""
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, **changes}))


def test_which_images_flipped(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a", {0, 1, 7}), make_run(tmp_path / "b", {1, 3})
    comparison = resight.compare([first, second])
    (flip,) = comparison.flips
    assert (flip.gained.tolist(), flip.lost.tolist()) == ([0, 7], [3])
    assert flip.by_class == {"cat": 1, "dog": 0}
    assert flip.difference.value == pytest.approx(1 / 8)
    assert flips.flipped_rows(comparison) == [
        ["id", "truth", "a", "b"],
        ["test/0", "cat", "dog", "cat"],  # row 1 both have wrong
        ["test/3", "dog", "dog", "cat"],
        ["test/7", "dog", "cat", "dog"],
    ]
    text = str(comparison)
    assert "b against a: +12.50 points" in text
    # A difference of 1 in 8 images lies between -33 and +58 points.
    assert "2 gained, 1 lost; cat +1; too few images to tell" in text


def test_balanced_accuracy_is_compared_where_classes_differ_in_size(tmp_path: Path) -> None:
    """Of 3 cats and 5 dogs: (1/3 + 4/5) / 2 = 56.67 % first, then (2/3 + 4/5) / 2 = 73.33 %."""
    comparison = resight.compare(
        [make_run(tmp_path / "a", {0, 1, 7}), make_run(tmp_path / "b", {1, 3})]
    )
    (flip,) = comparison.flips
    assert flip.balanced is not None
    assert flip.balanced.value == pytest.approx(1 / 6)
    assert comparison.to_dict()["flips"][0]["balanced"]["value"] == flip.balanced.value
    text = str(comparison)
    head, first, second = text.splitlines()[:3]
    assert "balanced accuracy" in head
    assert "  56.67 % (" in first
    assert "  73.33 % (" in second
    assert "), balanced +16.67 points (" in text
    saved = [run["test"]["balanced_accuracy"]["value"] for run in comparison.to_dict()["runs"]]
    assert saved == pytest.approx([17 / 30, 22 / 30])


def test_balanced_accuracy_is_compared_over_seeds(tmp_path: Path) -> None:
    wrong = {"a0": {0, 1}, "a1": {0}, "b0": {3}, "b1": {3, 4}}  # a misses cats, b dogs
    comparison = resight.compare(
        [
            make_run(tmp_path / name, rows, f"seed={name[1]}", f"optimizer.lr=0.{ord(name[0])}")
            for name, rows in wrong.items()
        ]
    )
    one, two = (group.balanced for group in comparison.groups)
    assert one is not None
    assert two is not None
    assert (one.mean, two.mean) == (pytest.approx(0.75), pytest.approx(0.85))
    assert two.difference is not None
    assert two.difference.value == pytest.approx(0.1)
    text = str(comparison)
    assert "recipe 1: mean of 2 runs 81.25 % (1.84 to 100.00), balanced 75.00 %" in text
    assert "recipe 2 against 1: +0.00 points (" in text
    assert "), balanced +10.00 points (" in text


def test_recipes_with_the_same_seeds_are_paired_by_seed(tmp_path: Path) -> None:
    """Of 8 images, seeds 0 to 2 gain 1, 1 and 2: 16.67 points +- 4.303 * 7.217 / sqrt(3)."""
    wrong = {"a": ({0, 1, 2, 3}, {0, 1}, {0, 1, 2}), "b": ({0, 1, 2}, {0}, {0})}
    runs = [
        make_run(tmp_path / f"{name}{seed}", rows, f"seed={seed}", f"optimizer.lr=0.{ord(name)}")
        for name, draws in wrong.items()
        for seed, rows in enumerate(draws)
    ]
    first, second, third, *others = runs
    comparison = resight.compare([third, first, second, *others])  # whatever their order
    group = comparison.groups[1]
    assert group.paired
    assert group.difference is not None
    half = 4.303 * np.std([1 / 8, 1 / 8, 2 / 8], ddof=1) / np.sqrt(3)
    assert group.difference.value == pytest.approx(1 / 6)
    assert group.difference.high - 1 / 6 == pytest.approx(half)
    assert group.deviation == pytest.approx(np.std([5 / 8, 7 / 8, 7 / 8], ddof=1))
    assert "recipe 2 against 1: +16.67 points (-1.26 to +34.60)" in str(comparison)
    assert ", paired by seed" in str(comparison)
    unpaired = resight.compare([first, second, *others]).groups[1]
    assert not unpaired.paired


def test_images_are_told_of_many_runs_only_where_asked_for(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"{seed}", {seed}, f"seed={seed}") for seed in range(3)]
    comparison = resight.compare(runs)
    assert "gained" not in str(comparison)
    assert "1 against 0: +0.00 points" in comparison.text(images=True)
    assert "gained" in str(resight.compare(runs[:2]))


def test_tables_for_other_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "=a_|", {0, 1}, "seed=0")
    make_run(tmp_path / "b", {0}, "seed=1")

    def printed(style: str) -> list[str]:
        assert main(["compare", "./=a_|", "b", "--format", style]) == 0
        return capsys.readouterr().out.splitlines()

    head, first, _, mean = csv.reader(printed("csv"))
    assert (head[0], head[3]) == ("run", "test accuracy")
    assert (first[0], first[3]) == ("'=a_|", "75.00 % (40.93 to 92.85)")
    assert mean[:4] == ["mean ± std", "1", "2 runs", "81.25 % ± 8.84"]
    head_line, rule, first_line, *_ = printed("markdown")
    assert head_line.startswith("| run | recipe |")
    assert {*rule} == {*"| -"}
    assert first_line.startswith("| =a_\\| | 1 | 0 | 75.00 % (40.93 to 92.85) |")
    begin, *_, last, end = printed("latex")
    assert (begin, end) == (r"\begin{tabular}{lllllllll}", r"\end{tabular}")
    assert r"81.25 \% $\pm$ 8.84" in last


def test_balanced_accuracy_is_left_out_where_classes_are_of_one_size(tmp_path: Path) -> None:
    labels = np.arange(8) % 2
    runs = [make_run(tmp_path / name, {0}, labels=labels) for name in "ab"]
    comparison = resight.compare(runs)
    assert "balanced" not in str(comparison)
    assert comparison.flips[0].balanced is None
    assert comparison.groups[0].balanced is None


def test_seeds_are_one_group_and_other_settings_another(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a0", {0, 1}, "seed=0"),
        make_run(tmp_path / "b0", {0}, "optimizer.lr=0.1", "seed=0"),
        make_run(tmp_path / "a1", {0}, "seed=1", "data.source=elsewhere.npz"),
        make_run(tmp_path / "b1", set(), "optimizer.lr=0.1", "seed=1"),
        make_run(tmp_path / "other-images-to-train-on", {2}, "seed=2", fingerprint="g"),
    ]
    comparison = resight.compare(runs)
    names = [group.runs for group in comparison.groups]
    assert names == [("a0", "a1"), ("b0", "b1"), ("other-images-to-train-on",)]
    means = [group.mean for group in comparison.groups]
    assert means == pytest.approx([13 / 16, 15 / 16, 7 / 8])
    a, b, single = comparison.groups
    assert a.interval is not None
    assert a.difference is None
    assert b.interval is not None
    assert b.interval.high == 1  # a share is never above
    assert b.difference is not None
    assert b.difference.value == pytest.approx(1 / 8)
    assert (single.interval, single.difference) == (None, None)
    rate = resight.load_recipe("digits").optimizer.lr
    assert comparison.settings["optimizer.lr"] == (rate, 0.1, rate)
    assert list(comparison.settings) == ["optimizer.lr"]
    assert [run.recipe.seed for run in comparison.runs] == [0, 0, 1, 1, 2]
    text = str(comparison)
    assert "recipe 1: mean of 2 runs 81.25 %" in text
    # Two seeds of each recipe: the interval reaches from -100 to +125 points.
    assert re.search(r"recipe 2 against 1: \+12\.50 points \(.*\), over seeds; too few runs", text)
    assert "takes several seeds of each" in text  # as one setting has a single run
    assert "the data of other-images-to-train-on is not that of a0" in text


def test_the_same_seed_twice_is_one_draw(tmp_path: Path) -> None:
    twice = [make_run(tmp_path / "a", {0}), make_run(tmp_path / "b", {1, 2})]
    comparison = resight.compare([*twice, make_run(tmp_path / "c", {1}, "seed=1")])
    (group,) = comparison.groups
    assert group.interval is None
    assert comparison.notes == (
        "a and b have the same seed, so they are not two draws: no interval",
    )


def test_seeds_that_agree_to_the_image_have_no_interval(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{lr}-{seed}", wrong, f"optimizer.lr={lr}", f"seed={seed}")
        for lr, wrong in ((0.1, {0}), (0.2, {0, 1}))
        for seed in (0, 1)
    ]
    for group in resight.compare(runs).groups:
        assert (group.interval, group.difference) == (None, None)


def test_what_is_one_group_and_what_is_not(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", {0})
    explained = make_run(tmp_path / "b", {1}, "seed=1", "explain.report=false", "explain.images=3")
    target = ("model.name=custom", "model.target=Net")
    custom = [make_run(tmp_path / f"net{i}", {2}, *target, f"seed={i}") for i in (0, 1)]
    comparison = resight.compare([first, explained, *custom])
    assert [group.runs for group in comparison.groups] == [("a", "b"), ("net0",), ("net1",)]


def test_runs_with_validation_and_names_that_look_like_markup(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "lr[low]", {0}), make_run(tmp_path / "b[red]x", {1}, "seed=1")]
    for path, right in zip(runs, (9, 10), strict=True):
        changed_summary(path, validation={"accuracy": asdict(wilson(right, 10)), "loss": 0.4})
    lines = str(resight.compare(runs)).splitlines()
    assert lines[1].split()[:5] == ["lr[low]", "1", "0", "87.50", "%"]
    assert "90.00 %" in lines[1]
    assert lines[2].startswith("b[red]x")
    assert "100.00 %" in lines[2]


def test_settings_that_one_kind_has_and_another_has_not(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "a", {0}), make_run(tmp_path / "b", {0}, "optimizer.name=adam")
    comparison = resight.compare([one, two])
    assert comparison.settings["optimizer.name"] == ("sgd", "adam")
    assert comparison.settings["optimizer.beta2"][0] is None
    assert "optimizer.nesterov" in str(comparison)


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "x" / "seed0", {0}), make_run(tmp_path / "y" / "seed0", {1})]
    assert list(resight.compare(runs).names) == list(map(str, runs))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / "a", {0})), str(make_run(tmp_path / "b", {1}))]
    table = tmp_path / "flipped.csv"
    assert main(["compare", *runs, "--out", str(table)]) == 0
    assert f"{table}: 2 of the 2 images that one has right" in capsys.readouterr().out
    with open(table, newline="") as file:
        assert next(csv.DictReader(file)) == {
            "id": "test/0", "truth": "cat", "a": "dog", "b": "cat"
        }  # fmt: skip
    assert main(["compare", *runs, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["flips"][0]["gained"] == ["test/0"]
    assert content["runs"][1]["test"]["accuracy"]["value"] == 7 / 8
    before = table.read_bytes()
    assert main(["compare", *runs, "--out", str(table)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_the_pictures_of_flipped_images(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", {0, 1}), make_run(tmp_path / "b", {1, 3, 6})]
    comparison = resight.compare(runs)
    with pytest.raises(UsageError, match="none of the runs has a gallery"):
        flips.write_flipped(comparison, tmp_path / "flipped.png")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 12, 3), np.uint8)
    no_rows = np.zeros(0, np.int64)
    second = comparison.predictions[1]  # its gallery serves, too
    write_gallery(runs[1], pixels, second, rows=no_rows, maps=[], method="grad-cam")
    comparison = resight.compare(runs)
    images = flips.flipped_pictures(comparison)
    assert {image.id for image in images} == {"test/0", "test/3", "test/6"}
    for image in images:  # each its own picture, as small galleries keep them without loss
        row = int(image.id[-1])
        np.testing.assert_array_equal(image.picture, pixels[row])
        assert image.predictions == tuple(
            (CLASSES[one.preds[row]], pytest.approx(one.confidence[row]), one.correct[row])
            for one in comparison.predictions
        )
    assert len(flips.flipped_pictures(comparison, limit=2)) == 2
    assert flips.write_flipped(comparison, tmp_path / "flipped.png") == 3
    assert (tmp_path / "flipped.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("alone", "takes at least 2 runs"),
        ("twice", "named twice"),
        ("other images", r"differ test/0 \(cat\) and others/0 \(cat\)"),
        ("unfinished", "No result: the run is not finished; resight resume"),
        ("untested", "the run stopped before the end"),
        ("no predictions", r"there is no predictions\.npz"),
        ("damaged", r"predictions\.npz is damaged"),
        ("other format", "another version of resight"),
        ("no number", r"summary\.json is damaged"),
        ("no accuracy", r"summary\.json is damaged"),
    ],
)
def test_what_cannot_be_compared(problem: str, line: str, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", {0}), make_run(tmp_path / "b", {1})]
    match problem:
        case "alone":
            runs.pop()
        case "twice":
            runs[1] = tmp_path / "b" / ".." / "a"
        case "other images":
            runs[1] = make_run(tmp_path / "c", {1}, ids="others")
        case "unfinished":
            (runs[1] / "summary.json").unlink()
        case "untested":
            changed_summary(runs[1], test=None)
        case "no predictions":
            (runs[1] / "predictions.npz").unlink()
        case "damaged":
            (runs[1] / "predictions.npz").write_bytes(b"PK")
        case "other format":
            changed_summary(runs[1], format=1)
        case "no number":
            changed_summary(runs[1], train_secs=None)
        case "no accuracy":
            changed_summary(runs[1], validation={"loss": 1})
    with pytest.raises(UsageError, match=line):
        resight.compare(runs)


def test_where_flipped_images_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.csv"):
        flips.check_out(tmp_path / "flipped.gif")
    with pytest.raises(UsageError, match="does not exist; make it"):
        flips.check_out(tmp_path / "gone" / "flipped.csv")
