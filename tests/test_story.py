"""The way through README, from a recipe to explained mistakes, as a person walks it.

Every stage is a command, and after each stage stand the things that a person would look at. One
image is followed all the way: from its row in the data to the page.
"""

import base64
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resight
from resight.cli.app import main

SMALL = ["--epochs", "2", "--set", "model.widths=[8,8,16]"]

Command = Callable[..., str]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command in an empty folder and return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(line: str, *more: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main([*line.split(), *more]) == code
        return capsys.readouterr().out

    return run


def rows_of(path: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table by the id of their image."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def page_data(page: Path) -> dict[str, Any]:
    """Return what the script of a report draws from, its arrays decoded."""
    (text,) = re.findall(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    data: dict[str, Any] = json.loads(text)
    for name, kind in (("labels", np.uint8), ("preds", np.uint8), ("losses", "<f4")):
        data[name] = np.frombuffer(base64.b64decode(data[name]), kind)
    data["ids"] = [data["idPrefix"] + id for id in data["ids"]]
    return data


@pytest.mark.slow
def test_from_a_recipe_to_explained_mistakes(command: Command) -> None:
    # Which recipes are there, and how does this one differ?
    assert re.search(r"^digits +", command("recipes"), re.MULTILINE)
    assert "resnet18" in command("recipes diff base digits")

    # What will the learning rate do, and which one is right?
    assert "one_cycle: " in command("schedule digits --out schedule.png", *SMALL[:2])
    Image.open("schedule.png").load()
    curve = json.loads(command("lr-find digits --json --quiet", *SMALL[2:]))
    assert curve["verdict"]["ok"], curve["verdict"]["reasons"]
    assert min(curve["lrs"]) < curve["peak"] < max(curve["lrs"])

    # Train with that rate. The run folder holds the result, and why it is no better.
    command(f"train digits --lr {curve['peak']} --name first --quiet", *SMALL)
    run = resight.Run.open("runs/first")
    assert run.recipe.optimizer.lr == curve["peak"]
    assert run.test.accuracy.low > 0.3  # where chance is 0.1
    assert run.summary is not None
    assert run.summary.data.train + run.summary.data.val + run.summary.data.test == 1797
    accuracy = f"{run.test.accuracy.value:.2%} (95 % interval"

    # Evaluated again, it reaches the same: nothing but the saved weights decides.
    assert accuracy in command("evaluate runs/first --quiet")
    evaluation = json.loads(Path("runs/first/evaluation-digits/summary.json").read_text())
    assert evaluation["accuracy"]["value"] == run.test.accuracy.value

    # One image that the network gets wrong: the same in the data and in every table.
    mistakes, predictions = (
        rows_of("runs/first/mistakes.csv"),
        rows_of("runs/first/predictions.csv"),
    )
    id, mistake = next(iter(mistakes.items()))
    test = resight.data("digits").test
    row = test.ids.index(id)
    assert tuple(predictions) == test.ids
    assert len(mistakes) == sum(one["truth"] != one["prediction"] for one in predictions.values())
    assert mistake["true"] == predictions[id]["truth"] == str(int(test.labels[row]))
    assert mistake["pred"] == predictions[id]["prediction"] != mistake["true"]
    assert float(mistake["loss"]) == pytest.approx(float(predictions[id]["loss"]))

    # As a picture file, it is taken for the same class; and the network shows where it looks.
    Image.fromarray(test.images[row, 0].numpy()).save("photo.png")
    (answer,) = json.loads(command("predict runs/first photo.png --json --quiet"))["pictures"]
    assert max(answer["classes"], key=answer["classes"].get) == mistake["pred"]
    assert "explain-photo/photo_grad-cam.png" in command("explain runs/first photo.png --quiet")

    # Another seed: which images does it gain and lose?
    command(
        f"train digits --lr {curve['peak']} --seed 1 --name second --quiet",
        *SMALL,
        *("--set", "explain={report=false,pictures=false}"),
    )
    (flips,) = json.loads(command("compare runs/first runs/second --json"))["flips"]
    second = rows_of("runs/second/predictions.csv")
    assert set(flips["gained"]) == {
        id for id in mistakes if second[id]["prediction"] == second[id]["truth"]
    }
    command("compare runs/first runs/second --out flipped.csv")
    flipped = rows_of("flipped.csv")
    assert set(flipped) == {*flips["gained"], *flips["lost"]}

    # Other heat maps, of the same mistakes; the page has them at once.
    text = command("explain runs/first --method layercam --quiet")
    assert f"mistakes    {len(mistakes)}" in text
    assert list(rows_of("runs/first/mistakes.csv")) == list(mistakes)
    assert Path("runs/first/misclassified_layercam.png").is_file()
    page = Path("runs/first/report.html")
    assert "layercam" in page.read_text(encoding="utf-8")

    # The page is made from the folder alone, the same each time, and follows the image, too.
    before = page.read_bytes()
    page.unlink()
    command("report runs/first")
    assert page.read_bytes() == before
    data = page_data(page)
    shown = data["ids"].index(id)
    assert data["classes"][data["labels"][shown]] == mistake["true"]
    assert data["classes"][data["preds"][shown]] == mistake["pred"]
    assert data["losses"][shown] == pytest.approx(float(mistake["loss"]), rel=1e-6)
    assert (data["labels"] != data["preds"]).sum() == len(mistakes)

    # The doctor looks at the run, and its exit code says whether there are errors.
    issues = resight.doctor("runs/first")
    text = command("doctor runs/first --quiet", code=int(bool(issues.errors)))
    assert all(issue.message in text for issue in issues.errors)
    assert "passed" in text
