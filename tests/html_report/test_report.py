"""The report as a file: what it says, what it must not contain, and what it is made without."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resight
from report_runs import CLASSES, add_causes, make_predictions, make_run
from resight.cli.app import main
from resight.html_report import script_json
from resight.html_report import write_page as build
from resight.metrics.confidence import Temperature, coverage_table
from resight.recipe.presets import load_recipe
from resight.recipe.toml import with_overrides
from resight.records import Predictions
from resight.runs.gallery import GalleryMaps, write_gallery
from resight.runs.summary import ConfidenceResult

pytestmark = pytest.mark.slow

RECIPE = with_overrides(
    load_recipe("base"),
    ["schedule.epochs=3", "schedule.peak_epoch=1", "data.source=photos", "augment.crop=none"],
)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a", RECIPE, make_predictions())


def text_of(page: str) -> str:
    """The words of a page, without style, script and tags."""
    bare = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", bare)).split())


def data_of(page: str) -> dict[str, Any]:
    """What the script is given."""
    (text,) = re.findall(r'id="data">(.*?)</script>', page)
    data: dict[str, Any] = json.loads(text)
    return data


def test_it_says_what_was_run_and_what_came_of_it(run: Path) -> None:
    page = build(run).read_text()
    text = text_of(page)
    summary = json.loads((run / "summary.json").read_text())["test"]
    a = summary["accuracy"]
    assert f"{100 * a['value']:.2f} % test accuracy" in text
    assert f"95 % interval {100 * a['low']:.2f} to {100 * a['high']:.2f} %, n = 150" in text
    assert "base on photos" in text
    assert "Training time 7 min 32 s CPU, 2 threads" in text
    assert "Parameters 12,345 resnet18" in text
    assert "schedule.epochs 20 3 set for this run" in text
    assert "data.source cifar10 photos set for this run" in text
    assert "augment.crop.pad 4 – set for this run" in text
    assert "device cpu" in text
    assert "2 pictures were gray" in text
    assert "0.012" in text  # of a label issue
    assert "Not in this report" not in text
    for chart in ("curves", "schedule", "lr_range", "per_class", "reliability"):
        assert f'id="chart-{chart}"' in page
    assert page.count("<svg") == 5
    assert all(f">{name}</text>" in page for name in CLASSES)  # selectable, not outlines


def test_it_has_precision_recall_and_f1_of_each_class(run: Path) -> None:
    text = text_of(build(run).read_text())
    summary = json.loads((run / "summary.json").read_text())["test"]
    table = text[text.index("Precision, recall and F1 of each class In percent") :]

    def cell(name: str, column: str) -> str:
        x = summary[column][name]
        ends = f"{100 * x['low']:.1f} to {100 * x['high']:.1f}"
        return f"{100 * x['value']:.1f} ({ends}, n = {x['n']})"

    means = [summary["macro_precision"], summary["balanced_accuracy"]["value"], summary["macro_f1"]]
    rows = ["mean " + " ".join(f"{100 * mean:.2f}" for mean in means)]
    for name in sorted(CLASSES, key=lambda name: summary["f1"][name]["value"]):
        cells = (cell(name, column) for column in ("precision", "per_class", "f1"))
        rows.append(f"{name} {' '.join(cells)}")
    assert f"class precision recall F1 {' '.join(rows)}" in table
    assert "Balanced accuracy" not in text  # the classes are of about one size
    assert "Top-5" not in text


def test_it_has_the_balanced_accuracy_of_classes_that_differ_in_size(tmp_path: Path) -> None:
    predictions = make_predictions(classes=tuple(f"class {i}" for i in range(25)))
    small = replace(predictions, labels=np.where(predictions.labels == 1, 0, predictions.labels))
    run = make_run(tmp_path / "a", RECIPE, small)
    text = text_of(build(run).read_text())
    summary = json.loads((run / "summary.json").read_text())["test"]
    for name, figure in [("Balanced", "balanced_accuracy"), ("Top-5", "top5")]:
        assert f"{name} accuracy {100 * summary[figure]['value']:.2f} %" in text
    assert "class 1 – – –" in text or "class 1 0.0" in text  # without images


def test_a_run_of_an_earlier_version_has_no_table_of_classes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", RECIPE, make_predictions())
    summary = json.loads((run / "summary.json").read_text())
    for name in ("balanced_accuracy", "precision", "f1", "macro_precision", "macro_f1", "top5"):
        del summary["test"][name]
    (run / "summary.json").write_text(json.dumps(summary))
    text = text_of(build(run).read_text())
    assert "Classes and calibration" in text
    assert "Precision, recall and F1" not in text
    assert "Not in this report" not in text


def test_it_says_what_a_confidence_is_worth(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", RECIPE, make_predictions())
    assert "If only sure answers count" not in build(run).read_text()
    answers = coverage_table(np.array([0.9, 0.6, 0.3, 0.8]), np.array([True, False, True, True]))
    content = json.loads((run / "summary.json").read_text())
    before = content["test"]["calibration"]["ece"]
    confidence = ConfidenceResult(Temperature(1.5, 1.25, 1.75, 400), answers, 0.021)
    content["confidence"] = asdict(confidence)
    (run / "summary.json").write_text(json.dumps(content))
    text = text_of(build(run).read_text())
    assert (
        f"Calibration error {before:.1%} on test, 2.1% at temperature 1.50 (1.25 to 1.75, "
        "n = 400), which `resight predict` uses."
    ) in text
    assert "0.7 50.0 (15.0 to 85.0, n = 4) 100.0 (34.2 to 100.0, n = 2)" in text
    assert "0.99 0.0 (0.0 to 49.0, n = 4) –" in text


def test_the_same_run_gives_the_same_page_with_ids_that_differ(run: Path) -> None:
    first = build(run).read_bytes()
    assert build(run).read_bytes() == first
    ids = re.findall(r'\bid="([^"]*)"', first.decode())
    assert len(ids) == len(set(ids)) > 100


@pytest.mark.slow
def test_it_needs_no_torch_and_none_of_the_training(run: Path) -> None:
    code = (
        "import sys\nfrom resight.cli.app import main\n"
        f"code = main(['report', {str(run)!r}])\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'torch' or m in "
        "('resight.training', 'resight.experiment', 'resight.datasets')])\nsys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"report     {run / 'report.html'}\n[]\n"


def test_the_command_and_the_function(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--json"]) == 0
    path = run / "report.html"
    assert json.loads(capsys.readouterr().out) == {
        "report": str(path),
        "bytes": path.stat().st_size,
    }
    assert resight.report(str(run)) == path
    assert main(["report", str(run.parent)]) == 2
    assert capsys.readouterr().err == (
        f"resight: {run.parent} is not a run folder: it holds no recipe.toml; see `ls runs/`\n"
    )


def test_an_interrupted_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", RECIPE, None)
    text = text_of(build(run).read_text())
    assert "80.00 % validation accuracy" in text
    assert "the run stopped before the end, so the test set was not read; resight resume" in text
    assert "Loss and accuracy" in text
    for name in ("summary.json", "metrics.jsonl", "env.json", "lr_find.json"):
        (run / name).unlink()
    page = build(run).read_text()
    text = text_of(page)
    assert "No accuracy yet: the run is not finished." in text
    assert "No training curves: no epoch was finished" in text
    assert "No environment: there is no env.json" in text
    assert "No learning-rate range test" in text
    assert "<svg" not in page


def test_a_run_that_was_not_explained(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", RECIPE, make_predictions(), gallery=False)
    text = text_of(build(run).read_text())
    assert f"No pictures and no heat maps: there is no gallery; resight explain {run}" in text
    (run / "predictions.npz").unlink()
    assert "No images and no confusion matrix: there is no predictions.npz" in text_of(
        build(run).read_text()
    )


def test_a_page_of_damaged_files(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", RECIPE, make_predictions())
    for file in run.iterdir():
        if file.is_file() and file.name != "recipe.toml":
            file.write_bytes(b"\xff\0")
    text = text_of(build(run).read_text())
    for name in ("summary.json", "env.json", "metrics.jsonl", "lr_find.json"):
        assert f"{name} is damaged and was passed over: " in text
    assert "No accuracy yet" in text


def test_a_gallery_of_another_test_set_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", RECIPE, make_predictions())
    content = json.loads((run / "gallery" / "gallery.json").read_text())
    (run / "gallery" / "gallery.json").write_text(json.dumps({**content, "images": 151}))
    page = build(run).read_text()
    assert "gallery is damaged and was passed over: it is of 151 images, not 150" in text_of(page)
    assert "data:image/webp" not in page


def test_names_that_are_not_text(tmp_path: Path) -> None:
    predictions = make_predictions(classes=("caf\udce9", "dog", "ü"), start="caf\udce9/")
    page = build(make_run(tmp_path / "a", RECIPE, predictions)).read_text()
    assert "Not in this report" not in text_of(page)
    assert "data:image/webp" in page
    data = data_of(page)
    assert data["classes"] == ["caf\\udce9", "dog", "ü"]
    (issue,) = re.findall(r'data-id="([^"]*)"', page)
    assert issue in [data["idPrefix"] + id for id in data["ids"]]


def test_it_begins_with_why_it_was_wrong(tmp_path: Path) -> None:
    predictions = make_predictions()
    run = make_run(tmp_path / "a", RECIPE, predictions)
    assert 'id="why"' not in build(run).read_text()
    causes = add_causes(run, predictions)
    page = build(run).read_text()
    text, total = text_of(page), causes.mistakes
    left = total - 15
    assert page.index('id="why"') < page.index('id="images"')
    for line in (
        f"{total} of 150 test images are wrong. Causes that passed a test explain 15 of them "
        f"({100 * 15 / total:.0f} %)",
        f"{100 * 12 / total:.0f} % 12 mistakes {causes.causes[0].sentence} What to do: Crop the "
        "corner. Tested: Pasted into 100 images of other classes, 80 follow.",
        f"{100 * left / total:.0f} % {left} mistakes Not explained",
        causes.groups[0].sentence,
        "An empty picture is taken for cat at 0.82.",
        "1 label may be wrong; by an estimate about 1 of them is wrong",
    ):
        assert line in text, line
    data = data_of(page)
    assert [part["name"] for part in data["sets"][:3]] == [
        "1. shortcut",
        "2. wrong label",
        "no cause found",
    ]
    rows = [part["rows"] for part in data["sets"]]
    assert rows[:2] == [list(cause.rows) for cause in causes.causes]
    assert sorted([*rows[0], *rows[1], *rows[2]]) == np.flatnonzero(~predictions.correct).tolist()
    near = data["neighbors"]
    shown = [
        [near["idPrefix"] + near["ids"][tile - 1] for tile in side]
        for side in data["sets"][3]["near"]
    ]
    assert shown == [["train/004.png"], ["train/009.png"]]


def test_causes_without_a_gallery_or_without_causes(tmp_path: Path) -> None:
    predictions = make_predictions()
    run = make_run(tmp_path / "a", RECIPE, predictions, gallery=False)
    add_causes(run, predictions)
    assert "Crop the corner." in text_of(build(run).read_text())
    content = json.loads((run / "causes.json").read_text()) | {"causes": [], "groups": []}
    (run / "causes.json").write_text(json.dumps(content))
    text = text_of(build(run).read_text())
    assert "test images are wrong. No cause passed its test. 100 %" in text
    (run / "causes.json").write_text(json.dumps(content | {"mistakes": -1, "causes": 5}))
    text = text_of(build(run).read_text())
    assert "causes.json is damaged and was passed over" in text
    assert "Why it was wrong" not in text


def test_only_numbers_are_rounded(tmp_path: Path) -> None:
    predictions = make_predictions(classes=("0.5", "0.25", "1.0"), start="0.1")
    page = build(make_run(tmp_path / "a", RECIPE, predictions)).read_text()
    assert "<td>0.5</td><td>0.25</td><td>0.012</td><td>0.900</td>" in page


def test_the_rate_that_is_recommended_for_the_schedule(tmp_path: Path) -> None:
    for name, rate_name, key in (
        ("cosine", "peak", "peak"),
        ("plateau", "rate to hold", "constant"),
    ):
        recipe = with_overrides(RECIPE, [f"schedule.name={name}", "optimizer.lr=0.025"])
        run = make_run(tmp_path / name, recipe, None)
        rate = json.loads((run / "lr_find.json").read_text())[key]
        expected = f"Recommended {rate_name}: {rate:.3g}. This run used 0.025."
        assert expected in text_of(build(run).read_text())


def test_it_has_what_the_doctor_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", RECIPE, None)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rising = [json.loads(line) | {"val_loss": 0.5 + k} for k, line in enumerate(lines)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rising))
    page = build(run).read_text()
    assert "What the doctor says" in page
    assert "Validation loss climbs from 0.5 after epoch 1 to" in page


def test_your_own_recipe_is_given_no_reasons(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "swift"\n[schedule]\nepochs = 3\npeak_epoch = 1\n')
    text = text_of(build(make_run(tmp_path / "a", load_recipe(str(file)), None)).read_text())
    assert "mine does not come with resight, so this page cannot tell" in text
    assert "model.name resnet18 swift " in text
    assert "set for this run" not in text
    named = text_of(build(make_run(tmp_path / "b", load_recipe("swift"), None)).read_text())
    assert "and why swift has it so" in named
    assert "model.name resnet18 swift 66 MFLOP" in named


def test_nothing_from_outside_becomes_markup(tmp_path: Path) -> None:
    recipe = with_overrides(RECIPE, [f"data.source=/data/{HOSTILE}", f"name={HOSTILE}"])
    predictions = make_predictions(classes=(HOSTILE, "=1+1", "a\u2028b"), start=HOSTILE)
    environment = {"device": HOSTILE, HOSTILE: HOSTILE, "command": [HOSTILE], "started": HOSTILE}
    run = make_run(tmp_path / f"{HOSTILE[10:16]}", recipe, predictions, environment=environment)
    page = build(run).read_text()
    assert len(re.findall("<script", page)) == len(re.findall("</script", page)) == 2
    assert "<img src" not in page
    assert "onerror=alert(2)&gt;" in page
    assert "\u2028" not in page[page.index('id="data"') :]


def test_json_for_a_script_element() -> None:
    value = ["</script>", "<!--", "a & b", "\u2028\u2029", "ü", {"k": 1.5}]
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_the_policy_allows_the_one_script_and_no_address(run: Path) -> None:
    page = build(run).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert re.search(r"script-src 'sha256-[\w+/]{43}='; ", policy)
    # the namespaces of SVG are the only addresses
    assert set(re.findall(r"\w+://[^\s\"'<>)]*", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


@pytest.mark.slow
def test_ten_thousand_images_fit(tmp_path: Path) -> None:
    n, k = 10_000, 10
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (500, 8, 8, 3), dtype=np.uint8)
    pictures = np.tile(small.repeat(4, axis=1).repeat(4, axis=2), (20, 1, 1, 1))  # (N, 32, 32, 3)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), labels] += 3
    ids = tuple(f"test-00000-of-00001.parquet#{row}" for row in range(n))
    predictions = Predictions(ids, logits, labels, tuple(f"class {i}" for i in range(k)))
    run = make_run(tmp_path / "a", RECIPE, predictions, gallery=False)
    rows = rng.permutation(n)[:2000]
    maps = [
        GalleryMaps(f"block{i}", *rng.normal(size=(2, 2000, side, side)).astype(np.float32))
        for i, side in enumerate((16, 8, 4))
    ]
    write_gallery(run, pictures, predictions, rows=rows, maps=maps, method="grad-cam")
    page = build(run)
    assert page.stat().st_size < 3_000_000
    assert "images are kept, for size" not in page.read_text()


def test_a_plateau_is_drawn_as_it_ran(tmp_path: Path) -> None:
    recipe = with_overrides(RECIPE, ["schedule.name=plateau", "schedule.patience=0"])
    page = build(make_run(tmp_path / "a", recipe, make_predictions())).read_text()
    assert 'id="chart-schedule"' in page
