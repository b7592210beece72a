"""What notebooks show, and the example notebook from its first cell to its last."""

import base64
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from torch import nn

import resight
from report_runs import epoch, make_run
from resight import figures
from resight.datasets import Dataset
from resight.errors import UsageError
from resight.events import EpochDone, Event, Message, Progress, RunEnd, show_events
from resight.interpret.explain_run import Explanation
from resight.lr_finder.suggest import analyze
from resight.metrics.mistakes import mistakes
from resight.notebook import DRAW, Display
from resight.notebook.live import LiveProgress
from resight.records import History, Predictions

EXAMPLES = Path(__file__).parent.parent / "examples"
PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = '<script>alert("1")</script>'


def predictions(*classes: str) -> Predictions:
    """Six images of which the last two are taken for another class."""
    labels = np.array([0, 1, 0, 1, 0, 1])
    logits = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 1, 0]]
    return Predictions(tuple("abcdef"), logits, labels, classes)


def history(epochs: int) -> History:
    steps = np.ones(8 * epochs)
    return History(tuple(map(epoch, range(1, epochs + 1))), steps, steps, steps)


def explanation(folder: Path, *, name: str) -> Explanation:
    wrong = tuple(mistakes(predictions("cat", name)))
    figure = figures.confusion_matrix(np.eye(2, dtype=np.int64), ("a", "b"))
    for file in ("misclassified_layercam.png", "correct_layercam.png"):
        figures.save(figure, folder / file)
    files = ("mistakes.csv", "misclassified_layercam.png", "correct_layercam.png", "gone.png")
    return Explanation(folder, files, "layercam", (f"{name} 8x8",), wrong, (), (f"note {name}",))


def run(folder: Path, *, finished: bool) -> resight.Run:
    made = predictions("cat", "dog") if finished else None
    path = make_run(folder / "run", resight.load_recipe("digits"), made, gallery=False)
    figures.save(figures.training_curves(history(2), 1), path / "curves.png")
    return resight.Run(path, interrupted=not finished)


def network(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


def maps(images: torch.Tensor) -> resight.Heatmaps:
    return resight.heatmaps(network(3), images, classes=(0, 1), method="layercam")


@pytest.fixture
def values(tmp_path: Path, tiny: Dataset) -> list[Any]:
    """One value of every kind that can be shown."""
    lrs = np.geomspace(1e-4, 1, 40)
    return [
        tiny,
        explanation(tmp_path, name="dog"),
        maps(tiny.test.images[:2] / 255),
        history(2),
        analyze(lrs, 2 - np.minimum(lrs, 0.1) * 10, images=40),
        predictions("cat", "dog"),
        run(tmp_path, finished=True),
        resight.schedule("digits"),
    ]


def test_every_kind_of_value_becomes_a_picture(values: list[Any]) -> None:
    assert {type(value) for value in values} == set(DRAW)
    for value in values:
        shown = resight.show(value)
        assert shown.pictures, type(value)
        assert all(picture.startswith(PNG) for picture in shown.pictures)
        bundle = shown._repr_mimebundle_()
        assert "image/png" in bundle or "data:image/png;base64," in bundle["text/html"]
        assert len(bundle["text/plain"]) < 400  # where a dataclass would print all its arrays


def test_a_lone_picture_is_a_png_and_pictures_with_words_are_html(tmp_path: Path) -> None:
    alone = Display("a", (PNG,))._repr_mimebundle_()
    assert base64.b64decode(alone.pop("image/png")) == PNG
    assert alone == {"text/plain": "a"}
    two = Display("a", (PNG, PNG))._repr_mimebundle_()
    assert two["text/html"].count("data:image/png;base64,") == 2
    assert "<p>b</p>" in Display("a", (PNG,), ("b",))._repr_mimebundle_()["text/html"]
    assert Display("a", (), ("b",))._repr_mimebundle_() == {"text/plain": "a\nb"}


def test_names_from_outside_cannot_become_code(tmp_path: Path) -> None:
    shown = resight.show(explanation(tmp_path, name=HOSTILE))
    markup = shown._repr_mimebundle_()["text/html"]
    assert "<script" not in markup
    # the layer twice, two pairs, a note
    assert markup.count("&lt;script&gt;alert(&quot;1&quot;)") == 4 + 1
    assert resight.show(predictions(HOSTILE, "dog")).pictures


def test_an_explanation_shows_what_was_wrong_and_what_is_still_there(tmp_path: Path) -> None:
    shown = resight.show(explanation(tmp_path, name="dog"))
    assert shown.pictures == ((tmp_path / "misclassified_layercam.png").read_bytes(),)
    assert shown.notes[0] == "mistakes: 2; most often cat taken for dog: 1, dog taken for cat: 1"


def test_a_run_says_how_good_it_is_or_that_it_was_stopped(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = resight.show(run(tmp_path / "a", finished=True))
    assert done.text.startswith(
        "digits: test accuracy 66.67% (95 % interval 30.00% to 90.32%, n = 6)"
    )
    stopped = resight.show(run(tmp_path / "b", finished=False))
    assert stopped.text.startswith("digits: stopped after 3 epochs")
    assert len(stopped.pictures) == 1


def test_a_run_is_shown_as_its_report_which_cannot_reach_the_notebook(tmp_path: Path) -> None:
    finished = run(tmp_path, finished=True)
    (finished.folder / "report.html").write_text(f"<p>{HOSTILE}", encoding="utf-8")
    bundle = resight.show(finished)._repr_mimebundle_()
    assert 'sandbox="allow-scripts allow-downloads"' in bundle["text/html"]
    assert "<script" not in bundle["text/html"]  # the page is the text of an attribute
    assert html.unescape(bundle["text/html"]).count(HOSTILE) == 1
    shell = InteractiveShell()
    resight.load_ipython_extension(shell)
    by_itself = shell.display_formatter.format(finished)[0]
    resight.unload_ipython_extension(shell)
    assert "<iframe" not in str(by_itself)  # pictures: a report has megabytes


def test_a_value_without_anything_to_draw_says_so() -> None:
    shown = resight.show(history(0))
    assert shown.pictures == ()
    assert shown.text.startswith("History: the run has no finished epoch")


def test_a_curve_that_cannot_be_trusted_says_so() -> None:
    lrs = np.geomspace(1e-4, 1, 40)
    shown = resight.show(analyze(lrs, np.full(40, 2.0), images=40))
    assert shown.text.startswith("learning-rate range test: do not trust it: ")


def test_a_plateau_says_which_validation_it_was_shown() -> None:
    recipe = resight.with_overrides(resight.load_recipe("base"), ["schedule.name=plateau"])
    assert resight.show(resight.schedule(recipe)).notes[0].startswith("made-up val_loss")


def test_heat_maps_over_images_of_any_range(tiny: Dataset) -> None:
    raw = tiny.test.images[:2]
    heat, bright = maps(raw / 255), raw > 128
    of_bytes = resight.show(heat, 255 * bright.byte(), classes=tiny.classes).pictures
    of_floats = resight.show(heat, 6 * bright.float() - 3, classes=tiny.classes).pictures
    assert of_bytes == of_floats
    assert resight.show(heat, raw, classes=tiny.classes).pictures != of_bytes
    assert resight.show(heat, torch.zeros(2, 3, 16, 16)).pictures != of_bytes


def test_of_many_classes_the_likeliest_are_shown(tiny: Dataset) -> None:
    images = tiny.test.images[:3] / 255
    model = network(100)
    heat = resight.heatmaps(model, images, classes="all", method="layercam")
    assert next(iter(heat.maps.values())).shape[1] == 100
    shown = resight.show(heat)
    assert shown.notes[0] == "of 100 classes the 10 of largest logit are shown"
    best = heat.logits.topk(10, dim=1).indices
    chosen = resight.heatmaps(model, images, classes=list(best.T), method="layercam")
    assert shown.pictures == resight.show(chosen).pictures


def test_maps_that_are_no_numbers_are_shown_as_none(tiny: Dataset) -> None:
    heat = maps(tiny.test.images[:2] / 255)
    broken = {layer: torch.full_like(raw, torch.nan) for layer, raw in heat.maps.items()}
    empty = {layer: torch.zeros_like(raw) for layer, raw in heat.maps.items()}
    shown = [resight.show(replace(heat, maps=maps)).pictures for maps in (broken, empty)]
    assert shown[0] == shown[1]


def test_a_grid_of_heat_maps_needs_names_for_all() -> None:
    heat = figures.LayerHeatmap("a", np.ones((2, 1, 4, 4), np.float32))
    assert figures.heat_grid(None, ["x", "y"], [heat], [["cat"], ["dog"]])
    with pytest.raises(resight.UsageError, match="give a row of names an image"):
        figures.heat_grid(None, ["x", "y"], [heat], [["cat"]])


@pytest.mark.parametrize(
    ("shape", "classes", "problem"),
    [
        ((3, 3, 16, 16), (), "give the 2 of 16x16 px"),
        ((2, 3, 16, 15), (), "give the 2 of 16x16 px"),
        ((2, 4, 16, 16), (), "1 or 3 channels"),
        ((3, 16, 16), (), "give the 2 of 16x16 px"),
        ((2, 3, 16, 16), ("cat",), "1 names for 3 classes"),
    ],
)
def test_images_that_are_not_those_of_the_maps(
    shape: tuple[int, ...], classes: tuple[str, ...], problem: str, tiny: Dataset
) -> None:
    with pytest.raises(resight.UsageError, match=problem):
        resight.show(maps(tiny.test.images[:2] / 255), torch.zeros(shape), classes=classes)


def test_what_cannot_be_shown() -> None:
    with pytest.raises(resight.UsageError, match=r"a int cannot be shown .*LRCurve"):
        resight.show(3)
    with pytest.raises(resight.UsageError, match="go with Heatmaps, not History"):
        resight.show(history(1), torch.zeros(1, 3, 8, 8))


def test_the_extension_shows_values_and_can_be_unloaded(values: list[Any]) -> None:
    shell = InteractiveShell()
    before = shell.display_formatter.format(history(1))[0]
    assert set(before) == {"text/plain"}
    resight.load_ipython_extension(shell)
    for value in values:
        shown = shell.display_formatter.format(value)[0]
        assert shown == resight.show(value)._repr_mimebundle_()
    resight.unload_ipython_extension(shell)
    assert shell.display_formatter.format(history(1))[0] == before


@pytest.mark.slow
def test_ipython_is_not_needed() -> None:
    code = "import sys, resight\nresight.show\nassert 'IPython' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


PICTURES = {
    "explain": (
        "digits",
        "curve",
        "resight.schedule(recipe, images=1299)",
        "run",
        "run.predictions",
        "explanation",
    ),
    "own_loop": (
        "curve",
        "schedule",
        "predictions",
        "resight.show(maps, test_images[worst], classes=digits.classes)",
        'Image(page.with_name("misclassified_layercam.png"))',
    ),
    "photos": ("data", "run", "run.predictions"),
}  # the last lines of the cells that show a picture


def test_every_example_notebook_is_run_and_stored_without_outputs() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(PICTURES)
    for name in PICTURES:
        cells = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells), "commit it without outputs"
        prose = "".join(line for cell in cells for line in cell["source"])
        links = re.findall(r"\]\(([^)]+)\)", prose)
        assert links
        assert all((EXAMPLES / link).exists() for link in links), links
        first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert "if find_spec(" in first  # nothing is installed where resight is already
        assert "    %pip install -q " in first


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_the_example_notebooks_run(name: str, tmp_path: Path) -> None:
    """In a process and a folder of its own, without anyone's settings, offline."""
    own = {f"{name}_DIR": str(tmp_path) for name in ("JUPYTER_CONFIG", "JUPYTER_RUNTIME")}
    own |= {"IPYTHONDIR": str(tmp_path), "RESIGHT_CACHE": str(tmp_path / "cache")}
    run_it = "from nbclient.cli import main; main()"
    source = shutil.copy(EXAMPLES / f"{name}.ipynb", tmp_path)  # it runs in the folder it is in
    options = [source, "--output", str(tmp_path / "done"), "--timeout", "300"]
    subprocess.run(
        [sys.executable, "-c", run_it, *options],
        env={**os.environ, **own, "RESIGHT_OFFLINE": "1", "PIP_NO_INDEX": "1"},
        cwd=tmp_path,
        check=True,
    )
    done = json.loads((tmp_path / "done.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in done["cells"]]
    shown = {
        text.splitlines()[-1]: json.dumps(cell["outputs"])
        for text, cell in zip(cells, done["cells"], strict=True)
        if cell["cell_type"] == "code"
    }
    assert not any('"stderr"' in outputs for outputs in shown.values())
    for line in PICTURES[name]:
        pictures = re.findall(r'(?:image/png": "|image/png;base64,)([A-Za-z0-9+/]+)', shown[line])
        assert pictures, line
        assert all(base64.b64decode(picture + "==").startswith(PNG) for picture in pictures)
    if name == "photos":
        (issues,) = (outputs for line, outputs in shown.items() if "looks like" in line)
        assert "star/square03.png is labeled star but looks like square" in issues


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """The shell of this process, which `display` writes to, with the extension."""
    shell = InteractiveShell.instance()
    resight.load_ipython_extension(shell)
    yield shell
    resight.unload_ipython_extension(shell)
    InteractiveShell.clear_instance()


def pages(*events: Event) -> list[str]:
    """Return the pages that remain of events, one for each display."""
    shown: dict[str, str] = {}
    with capture_output() as captured:
        for event in events:
            show_events(event)
    for output in captured._outputs:
        shown[output["transient"]["display_id"]] = output["data"]["text/html"]
    return list(shown.values())


@pytest.mark.usefixtures("shell")
def test_a_finished_run_folds_its_notes_and_keeps_its_warnings() -> None:
    row = epoch(1)
    parts = [Message("a note"), Message("a <warning>", "warning"), EpochDone(row, best=True)]
    (page,) = pages(*parts, RunEnd(Path("runs/a")))
    warning, details = page.split("<details>")
    assert "a &lt;warning&gt;" in warning
    assert "a note" not in warning
    summary, notes = details.split("</summary>")
    assert "runs/a: epoch 1" in summary
    assert "a note" in notes
    assert "<img" not in page  # one epoch is no curve
    two = [EpochDone(row, best=True), EpochDone(epoch(2), best=False)]
    (page,) = pages(*two, RunEnd(Path("runs/b")))
    before, details = page.split("<details>")
    assert "<img" not in before
    assert details.count("<img") == 1
    assert "a note" not in page


def test_a_table_is_text_in_a_notebook_too(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself rich shows a table where it sees a notebook, and colors it with FORCE_COLOR."""
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "1")  # by which rich sees a notebook
    monkeypatch.setenv("FORCE_COLOR", "1")
    shell.run_cell("from resight.text import table\nlines = table([('a', 'b')], 'x', 'y')")
    assert shell.user_ns["lines"] == "x  y\na  b"


def test_each_cell_has_an_output_of_its_own(shell: InteractiveShell) -> None:
    first = pages(Progress("heat maps", 1, 4), Progress("heat maps", 4, 4))
    assert first == ["heat maps 100%<br>"]
    shell.events.trigger("pre_run_cell", None)
    assert pages(Message("of the next cell"))[0].count("of the next cell") == 1
    resight.load_ipython_extension(shell)  # once more, which must not show anything twice
    assert len(pages(Message("again"))) == 1
    resight.unload_ipython_extension(shell)
    assert pages(Message("silence")) == []


@pytest.mark.parametrize("name", ["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def test_colab_and_kaggle_get_plain_lines(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "1")
    progress = LiveProgress()
    for event in (Message("a note"), EpochDone(epoch(1), best=True), RunEnd(Path("runs/a"))):
        progress(event)
    note, line = capsys.readouterr().out.splitlines()
    assert note == "a note"
    assert line.startswith("epoch 1")


def test_a_picture_is_saved_under_its_name_and_several_by_number(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert Display("one", (PNG,)).save(path) == (path,)
    assert path.read_bytes() == PNG
    files = Display("two", (PNG, PNG)).save(path)
    assert [file.name for file in files] == ["a-1.png", "a-2.png"]
    with pytest.raises(UsageError, match="has no picture"):
        Display("none").save(path)
    with pytest.raises(UsageError, match="saved as PNG"):
        Display("one", (PNG,)).save(tmp_path / "a.html")
