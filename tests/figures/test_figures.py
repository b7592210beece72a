"""Figures show the numbers they were given, whole, legible, and in the same bytes every time."""

import dataclasses
import gc
import itertools
import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from resight import figures
from resight.errors import ResightError, UsageError
from resight.figures import style
from resight.figures.contact_sheet import Line, Row, Tile, contact_sheet
from resight.metrics import classification as metrics
from resight.metrics import intervals
from resight.optim.schedules import Schedule
from resight.recipe import MultiStep, OneCycle, Triangular
from resight.records import EpochRow, History, Predictions

pytestmark = pytest.mark.slow

UGLY = ("$x^2", "a_{b", r"\frac", "猫", "line\nbreak", "\udcff", "w" * 60, "W" * 60, "", "$$")


def history(epochs=8, *, val=True, momentum=True, spec=None, steps=5) -> History:
    spec = spec or OneCycle(epochs=epochs, momentum_low=0.85, momentum_high=0.95)
    schedule = Schedule(spec, lr=0.4, momentum=0.9, steps_per_epoch=steps)
    rates = [schedule.at(step) for step in range(schedule.total_steps)]
    rows = tuple(
        EpochRow(
            epoch=e,
            step=e * steps,
            lr=0.1,
            train_loss=2 / e,
            train_accuracy=1 - 0.8 / e,
            val_loss=2.2 / e if val else None,
            val_accuracy=1 - 0.9 / e if val else None,
            train_secs=1.0,
            images_per_sec=100.0,
        )
        for e in range(1, epochs + 1)
    )
    momenta = [rate.momentum if momentum else np.nan for rate in rates]
    lrs = np.array([rate.lr for rate in rates])
    return History(rows, lrs, np.array(momenta), np.zeros(len(lrs)))


def predictions(n=60, classes=("cat", "dog", "owl"), skill=2.0, ids=None) -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), n)
    logits = rng.normal(size=(n, len(classes))) + skill * np.eye(len(classes))[labels]
    ids = ids or tuple(f"test/{i:05d}.png" for i in range(n))
    return Predictions(ids, logits.astype(np.float32), labels, tuple(classes))


def pictures(n, channels=3, size=8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, size, size, channels), np.uint8)


def many(k) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(k))


def confusion(classes, n=300) -> Figure:
    return figures.confusion_matrix(metrics.confusion(predictions(n, classes)), classes)


def grid(rows, *, channels=3, classes=("cat", "dog", "owl"), ids=None) -> Figure:
    p = predictions(classes=classes, ids=ids)
    rows = np.arange(rows)
    return figures.prediction_grid(pictures(len(rows), channels), p, rows, "Some images")


def flips(n: int, runs: tuple[str, ...]) -> Figure:
    each = tuple((UGLY[i % len(UGLY)], 0.5, i == 0) for i in range(len(runs)))
    images = [figures.FlippedImage(picture, "deep/" * 40, UGLY[0], each) for picture in pictures(n)]
    return figures.flip_sheet(images, runs, f"Flipped {n}")


EVERY_FIGURE = {
    "curves": lambda: figures.training_curves(history(), 5),
    "curves, 1 epoch": lambda: figures.training_curves(history(1), 1),
    "curves, no validation": lambda: figures.training_curves(history(40, val=False), None),
    "rates": lambda: figures.rates_as_run(history()),
    "rates, 1 step": lambda: figures.rates_as_run(history(1, steps=1)),
    "rates, no momentum": lambda: figures.rates_as_run(history(momentum=False)),
    "rates, zigzag": lambda: figures.rates_as_run(history(50, spec=Triangular(epochs=50))),
    "confusion, 1 class": lambda: confusion(("cat",)),
    "confusion, 2 classes": lambda: confusion(("cat", "dog")),
    "confusion, 25 classes": lambda: confusion(many(25)),
    "confusion, 100 classes": lambda: confusion(many(100)),
    "confusion, 60 classes": lambda: confusion(many(60)),
    "confusion, 1,000 classes and one image": lambda: confusion(many(1000), n=1),
    "confusion, ugly": lambda: confusion(UGLY),
    "confusion, large counts": lambda: figures.confusion_matrix(
        np.full((12, 12), 1234567), [letter * 24 for letter in "abcdefghijkl"]
    ),
    "per class": lambda: figures.per_class(metrics.per_class_accuracy(predictions())),
    "per class, 100 and ugly": lambda: figures.per_class(
        metrics.per_class_accuracy(predictions(classes=many(90) + UGLY))
    ),
    "reliability": lambda: figures.reliability(metrics.calibration(predictions(500))),
    "reliability, 1 image": lambda: figures.reliability(metrics.calibration(predictions(1))),
    "images": lambda: figures.image_grid(pictures(7), many(7), columns=3, title="Seven"),
    "images, none": lambda: figures.image_grid(pictures(0), [], title="None"),
    "images, one": lambda: figures.image_grid(pictures(1), ["x" * 90], title="$t" * 99),
    "predictions": lambda: grid(20),
    "predictions, none": lambda: grid(0),
    "predictions, gray": lambda: grid(3, channels=1),
    "predictions, ugly": lambda: grid(20, classes=UGLY, ids=(*UGLY, *["deep/" * 40] * 50)),
    "flips": lambda: flips(7, ("a", "b")),
    "flips, none": lambda: flips(0, ("a", "b")),
    "flips, ugly": lambda: flips(
        6, ("20261121-101513-swift-s", "20261122-114002-swift-s", UGLY[0])
    ),
    "before and after": lambda: figures.before_after(
        pictures(2), np.stack([pictures(3)] * 2), [*UGLY[:1], UGLY[6]]
    ),
}


@pytest.fixture(params=EVERY_FIGURE, ids=str)
def figure(request) -> Figure:
    return EVERY_FIGURE[request.param]()


def shown(figure: Figure) -> list[np.ndarray]:
    """The pictures on a sheet, in the order in which they were drawn."""
    return [picture.get_array() for picture in figure.axes[0].images]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def boxes(figure: Figure) -> list:
    """Where each upright text lies, in pixels, after the layout: labels, notes and y ticks."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
        texts = list(figure.texts)
        for axes in figure.axes:
            low, high = sorted(axes.get_ylim())
            texts += [child for child in axes.get_children() if isinstance(child, Text)]
            texts.append(axes.xaxis.label)
            ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
            texts += [label for y, label in ticks if low <= y <= high and axes.axison]
        renderer = canvas.get_renderer()
        return [text.get_window_extent(renderer) for text in texts if text.get_text()]


def test_nothing_is_cut_off_and_no_text_overlaps(figure):
    upright = boxes(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        whole = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())  # inches
    width, height = figure.get_size_inches()
    assert whole.x0 > -0.01
    assert whole.y0 > -0.01
    assert whole.x1 < width + 0.01
    assert whole.y1 < height + 0.01
    for one, other in itertools.combinations(upright, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_figure_is_the_same_file_whatever_the_users_settings(tmp_path, suffix):
    make = EVERY_FIGURE["curves"]
    figures.save(make(), tmp_path / f"a{suffix}")
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "savefig.dpi": 20}):
        figures.save(make(), tmp_path / f"b{suffix}")
    first = (tmp_path / f"a{suffix}").read_bytes()
    assert first == (tmp_path / f"b{suffix}").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_every_figure_becomes_a_picture_without_a_warning(figure, tmp_path):
    figures.save(figure, tmp_path / "figure.PNG")
    with Image.open(tmp_path / "figure.PNG") as picture:
        assert np.asarray(picture.convert("L")).std() > 1  # not blank
        assert min(picture.size) >= 300


def test_save_replaces_a_file_whole_or_leaves_it(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("old")
    with pytest.raises(UsageError, match=r"figure\.pdf.*\.png or \.svg"):
        figures.save(grid(1), path.with_suffix(".pdf"))
    with pytest.raises(ResightError, match=r"cannot write .*missing"):
        figures.save(grid(1), tmp_path / "missing" / "figure.png")
    with pytest.raises(ResightError, match="cannot write"):
        figures.save(grid(1), path / "figure.png")  # below a file
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ResightError, match="cannot write"):
        figures.save(grid(1), tmp_path / "folder.png")
    assert path.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["figure.png", "folder.png"]
    figures.save(grid(1), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_figures_need_neither_torch_nor_pyplot():
    code = "import sys, resight.figures as f; sys.exit(any(m in sys.modules for m in "
    code += "('torch', 'matplotlib.pyplot')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- curves ---------------------------------------------------------------------------------


def test_training_curves_draw_the_history_on_one_scale():
    figure = figures.training_curves(history(4), 3)
    loss, accuracy = figure.axes  # no third axes: train and validation share one scale
    assert [line.get_label() for line in loss.lines] == ["train", "validation", "kept: epoch 3"]
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[e, 2 / e] for e in (1, 2, 3, 4)])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [2.2 / e for e in (1, 2, 3, 4)])
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [20, 60, 100 - 80 / 3, 80])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [10, 55, 70, 77.5])
    assert set(accuracy.lines[2].get_xdata()) == {3}
    assert loss.get_ylim()[0] == 0


def test_the_band_of_validation_accuracy_is_its_interval():
    # 10, 55, 70 and 77.5 % of 40 images are 4, 22, 28 and 31 of them.
    (band,) = figures.training_curves(history(4), 3, val_images=40).axes[1].collections
    low, high = band.get_datalim(band.axes.transData).intervaly
    assert (low, high) == pytest.approx(
        (100 * intervals.wilson(4, 40).low, 100 * intervals.wilson(31, 40).high)
    )
    assert not figures.training_curves(history(4), 3).axes[1].collections
    unheld = figures.training_curves(history(4, val=False), None, val_images=40)
    assert not unheld.axes[1].collections


def test_train_and_validation_differ_in_more_than_hue():
    train, validation = figures.training_curves(history(4), None).axes[0].lines
    assert train.get_linestyle() != validation.get_linestyle()
    assert train.get_marker() != validation.get_marker()


def test_a_loss_that_is_not_finite_leaves_a_gap():
    whole = history(3)
    broken = dataclasses.replace(whole.epochs[1], train_loss=np.inf, val_loss=np.nan)
    rows = (whole.epochs[0], broken, whole.epochs[2])
    figure = figures.training_curves(dataclasses.replace(whole, epochs=rows), None)
    for line in figure.axes[0].lines:
        assert np.isnan(line.get_ydata()).tolist() == [False, True, False]


def test_rates_are_drawn_at_the_end_of_their_step_with_their_corners():
    spec = OneCycle(
        epochs=24, peak_epoch=5, anneal="linear", div=10, momentum_low=0.85, momentum_high=0.95
    )
    figure = figures.rates_as_run(history(24, spec=spec, steps=98))
    lr, momentum = figure.axes
    curve = lr.lines[0].get_xydata()
    np.testing.assert_allclose(curve[489], [5, 0.4])  # the peak is reached when epoch 5 ends
    np.testing.assert_allclose(curve[-1], [24, 4e-6])
    assert [text.get_text() for text in lr.texts] == ["0.04", "0.4", "4e-06"]
    assert [text.get_text() for text in momentum.texts] == ["0.95", "0.85", "0.95"]


def test_each_level_of_a_step_curve_is_written_once():
    spec = MultiStep(epochs=8, milestones=(2.0, 6.0))
    figure = figures.rates_as_run(history(8, spec=spec))
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.4", "0.04", "0.004"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.9"]


def test_without_momentum_there_is_no_panel_for_it():
    assert len(figures.rates_as_run(history(momentum=False)).axes) == 1


def test_an_empty_run_is_refused():
    empty = History((), np.zeros(0), np.zeros(0), np.zeros(0))
    with pytest.raises(UsageError, match="no finished epoch"):
        figures.training_curves(empty, None)
    with pytest.raises(UsageError, match="no finished epoch"):
        figures.rates_as_run(empty)
    with pytest.raises(UsageError, match="3 learning rates and 2 momenta"):
        figures.schedule_curve(np.ones(3), np.ones(2), steps_per_epoch=1, title="")


# --- numbers --------------------------------------------------------------------------------


def test_confusion_matrix_writes_counts_and_colors_shares():
    counts = np.array([[8, 2, 0], [0, 300, 100], [0, 0, 0]])
    axes = figures.confusion_matrix(counts, ("cat", "dog", "owl")).axes[0]
    cells = {(text.get_position()[::-1], text.get_text()) for text in axes.texts}
    assert cells == {((0, 0), "8"), ((0, 1), "2"), ((1, 1), "300"), ((1, 2), "100")}
    shares = [[0.8, 0.2, 0], [0, 0.75, 0.25], [0, 0, 0]]
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    assert axes.get_title(loc="left") == "308 of 410 right"
    assert axes.get_ylabel() == "true class"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["cat", "dog", "owl"]


def test_counts_are_left_out_of_large_matrices():
    assert confusion(many(25)).axes[0].texts
    assert not confusion(many(26)).axes[0].texts


def test_names_that_look_alike_when_shortened_are_numbered():
    names = tuple(f"a long name with number {i} and more of the same" for i in range(2))
    labels = [label.get_text() for label in confusion(names).axes[0].get_yticklabels()]
    assert labels[0].startswith("0 a long")
    assert labels[1].startswith("1 a long")


def test_per_class_puts_the_best_on_top_and_says_where_there_are_no_images():
    accuracies = {"cat": intervals.wilson(9, 10), "owl": None, "dog": intervals.wilson(1, 4)}
    axes = figures.per_class(accuracies).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["owl", "dog", "cat"]
    assert [text.get_text() for text in axes.texts] == ["no images", "25.0   of 4", "90.0   of 10"]
    assert [bar.get_width() for bar in axes.patches] == [25, 90]
    interval = intervals.wilson(9, 10)
    ends = axes.lines[1].get_xdata()
    np.testing.assert_allclose(ends, [100 * interval.low, 100 * interval.high])


def test_reliability_draws_the_bins_that_hold_images():
    table = metrics.Calibration(
        0.1,
        (
            metrics.ReliabilityBin(0, 0.5, None, None, 0),
            metrics.ReliabilityBin(0.5, 1, 0.7, 0.6, 10),
        ),
    )
    top, bottom = figures.reliability(table).axes
    assert "10.0 %" in top.get_title(loc="left")
    points = [line.get_xydata() for line in top.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [[[70, 60]]])
    assert [(bar.get_x(), bar.get_height()) for bar in bottom.patches] == [(0, 0), (50, 10)]


# --- pictures -------------------------------------------------------------------------------


def test_prediction_grid_shows_the_chosen_rows():
    p = predictions()
    rows = np.array([5, 0, 17])
    images = pictures(3)
    figure = figures.prediction_grid(images, p, rows, "Three")
    np.testing.assert_array_equal(shown(figure), images)
    expected = {"Three"}
    for row in rows:
        sign = "✓" if p.correct[row] else "✗"
        expected |= {
            f"{sign} {100 * p.confidence[row]:.0f} %  {p.classes[p.preds[row]]}",
            f"true: {p.classes[p.labels[row]]}",
            p.ids[row],
        }
    assert set(words(figure)) == expected


def test_without_mistakes_the_figure_says_so():
    assert "none of 60 images" in words(grid(0))


def test_gray_pictures_keep_their_range():
    """A picture of 100s and 120s must not be stretched to black and white."""
    image = np.full((1, 4, 4, 1), 100, np.uint8)
    image[0, 0] = 120
    figure = figures.image_grid(image, ["flat"])
    np.testing.assert_array_equal(shown(figure), image.repeat(3, axis=3))


def test_before_and_after_has_a_row_an_image_the_original_first():
    before = pictures(2)
    after = 255 - np.stack([before, before, before], axis=1)  # (2, 3, H, W, C)
    figure = figures.before_after(before, after, ["a", "b"])
    expected = [before[0], *after[0], before[1], *after[1]]
    np.testing.assert_array_equal(shown(figure), expected)
    tops = [round(picture.get_extent()[3], 6) for picture in figure.axes[0].images]
    assert len(set(tops[:4])) == len(set(tops[4:])) == 1
    assert tops[0] < tops[4]  # inches from the upper edge


@pytest.mark.parametrize(("high", "wide"), [(8, 8), (8, 24), (24, 8), (4, 1)])
def test_pictures_keep_their_proportions(high, wide):
    images = np.zeros((2, high, wide, 3), np.uint8)
    for picture in figures.image_grid(images, ["a", "b"]).axes[0].images:
        left, right, bottom, top = picture.get_extent()
        np.testing.assert_allclose((bottom - top) / (right - left), high / wide)
        assert picture.get_interpolation() == "nearest"


def test_markup_in_names_is_drawn_as_it_is(tmp_path):
    figure = figures.image_grid(pictures(1), [r"$\alpha_{"], title="100$ and 5$")
    assert {r"$\alpha_{", "100$ and 5$"} <= set(words(figure))
    figures.save(figure, tmp_path / "names.svg")  # would fail to parse as a formula


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), r"uint8 \(2, 3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.float32), "float32"),
        (np.zeros((3, 8, 8, 3), np.uint8), "3 images but 2 titles"),
    ],
)
def test_arrays_that_are_not_pictures_are_refused(images, message):
    with pytest.raises(UsageError, match=message):
        figures.image_grid(images, ["a", "b"])


@pytest.mark.parametrize("after", [np.zeros((2, 8, 8, 3)), np.zeros((1, 2, 8, 8, 3)), np.zeros(0)])
def test_draws_must_fit_their_images(after):
    with pytest.raises(UsageError, match="for 2 images"):
        figures.before_after(pictures(2), after.astype(np.uint8), ["a", "b"])


def test_a_line_has_the_room_up_to_the_next_one_at_its_height():
    name = "a name that is longer than its tile " * 3
    tiles = [Tile(above=[Line(name=name)]), Tile(), Tile(above=[Line(name=name)])]
    narrow, wide = sorted(words(contact_sheet([Row(tiles)], title="", side=1)), key=len)
    assert len(wide) > 1.8 * len(narrow)
    assert "…" in wide


@given(st.text(max_size=60), st.integers(2, 40))
def test_shortened_names_keep_both_ends(text, limit):
    short = style.shorten(text, limit)
    assert len(short) == min(len(text), limit)
    assert short.isprintable()
    if len(text) > limit:
        cut = (limit - 1) - (limit - 1) * 2 // 3
        assert short[cut] == "…"
        assert style.clean(text).startswith(short[:cut])
        assert style.clean(text).endswith(short[cut + 1 :])


def test_measuring_words_needs_one_buffer_for_the_whole_sheet() -> None:
    """A renderer holds a buffer as large as its figure; one a word once took 7 GB."""

    def renderers() -> int:
        return sum(type(thing) is RendererAgg for thing in gc.get_objects())

    gc.collect()
    before = renderers()
    gc.disable()
    try:
        lines = [Line("true ", "a name that is longer than its room")]
        rows = [Row([Tile(below=lines, width=0.5)])] * 30
        contact_sheet(rows, title="a long sheet", side=1)
        assert renderers() - before <= 1
    finally:
        gc.enable()


def test_of_many_classes_the_most_confused_are_shown() -> None:
    """By hand: 70 classes of 10 images; 3 -> 60 five times, 60 -> 61 four times, 8 -> 9 once."""
    counts = np.diag(np.full(70, 10))
    for true, pred, n in ((3, 60, 5), (60, 61, 4), (8, 9, 1)):
        counts[true, pred] += n
        counts[true, true] -= n
    axes = figures.confusion_matrix(counts, many(70)).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:5] == ["class 3", "class 60", "class 61", "class 8", "class 9"]
    assert len(names) == len(set(names)) == 25
    assert axes.get_title(loc="left") == (
        "690 of 700 right\nThe 25 most confused of 70 classes, which hold 10 of the 10 mistakes"
    )
    shares = axes.images[0].get_array()
    assert shares[0, 1] == 0.5  # of all images of the true class, also where some are not shown
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written[(1, 0)] == "5"
    assert written[(2, 1)] == "4"


def test_of_many_classes_the_best_and_the_worst_are_shown() -> None:
    accuracies = {name: intervals.wilson(k, 100) for k, name in enumerate(many(100))}
    axes = figures.per_class({**accuracies, "none": None}).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    worst = [f"class {k}" for k in range(20)]
    best = [f"class {k}" for k in range(80, 100)]
    assert names == [*worst, "", *best]
    assert axes.get_title(loc="left") == "The best and the worst of 101 classes"
    assert "... 60 classes in between ..." in [text.get_text() for text in axes.texts]
    assert figures.per_class(accuracies).get_figheight() < 8
