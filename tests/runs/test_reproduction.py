"""A published project again: kept, resumed, and put beside what was reported."""

import json
import statistics
from pathlib import Path

import pytest
import torch

import resight
import resight.training.loop
from resight.cli.recipes import recipe_list
from resight.datasets import Dataset, Split
from resight.errors import UsageError
from resight.experiment.many_runs import reproduce
from resight.metrics.intervals import mean_interval
from resight.recipe.presets import PRESETS
from resight.recipe.presets.published import PUBLISHED
from resight.runs.series import is_complete

pytestmark = pytest.mark.slow


def noise(n: int, first: int) -> Split:
    generator = torch.Generator().manual_seed(first)
    images = torch.randint(0, 256, (n, 3, 24, 24), generator=generator).to(torch.uint8)
    return Split(images, torch.arange(n) % 2, tuple(str(first + i) for i in range(n)))


DATA = Dataset("noise", ("cat", "dog"), noise(12, 0), noise(6, 100))
SMALL = ["model.name=swift", "model.widths=[8,8,8]"]  # where the network is not the point
QUICK = [*SMALL, "explain={report=false,pictures=false}"]


def test_every_published_project_has_a_recipe_of_its_length() -> None:
    for name, project in PUBLISHED.items():
        assert name in PRESETS
        assert resight.load_recipe(name).schedule.epochs == project.epochs
        assert max(project.curve.values(), default=project.accuracy) == project.accuracy


def test_the_list_of_recipes_shows_the_published_accuracies() -> None:
    rows = [line.split() for line in recipe_list().splitlines() if line]
    figures = {row[0]: " ".join(row[3:8]) for row in rows}
    assert figures["resnet18-plateau"].startswith("- 91.75 % ")
    assert figures["superconvergence"] == "87.24 % (JPEG 75) 90.46"
    assert figures["resnet18-layernorm-lr0.1"].startswith("- - the")


def test_reported_and_reached_lie_side_by_side_and_finished_seeds_are_kept(tmp_path: Path) -> None:
    settings = {"data": DATA, "epochs": 2, "out": tmp_path, "overrides": SMALL}
    first_result = reproduce("resnet18-onecycle", **settings)
    assert first_result.accuracy is not None
    assert first_result.accuracy.n == len(DATA.test)
    weights = (first_result.folder / "seed0" / "best.safetensors").stat().st_mtime_ns
    second_result = reproduce("resnet18-onecycle", seeds=2, **settings)
    assert (first_result.folder / "seed0" / "best.safetensors").stat().st_mtime_ns == weights
    assert second_result.accuracy is not None
    values = [run.test.accuracy.value for run in second_result.runs]
    assert second_result.accuracy.value == pytest.approx(statistics.fmean(values))
    page = (second_result.folder / "README.md").read_text()
    assert "| test accuracy | 87.01%, best epoch by the test set |" in page
    assert "mean of 2 runs" in page
    for line in page.splitlines():
        if "](" in line:  # every figure that the page names is there
            assert (second_result.folder / line.split("](")[1].split(")")[0]).exists(), line
    with pytest.raises(UsageError, match=r"ran with another schedule\.epochs"):
        reproduce("resnet18-onecycle", data=DATA, epochs=3, out=tmp_path, overrides=SMALL)


def test_a_stopped_seed_is_resumed(tmp_path: Path) -> None:
    class Enough(Exception):
        """Stands for a kill."""

    def kill(event: object) -> None:
        if isinstance(event, resight.events.EpochDone):
            raise Enough

    settings = {"data": DATA, "epochs": 2, "out": tmp_path, "overrides": QUICK}
    with pytest.raises(Enough):
        reproduce("resnet18-onecycle", on_event=kill, **settings)
    result = reproduce("resnet18-onecycle", **settings)
    assert result.runs[0].summary.epochs == 2
    assert not result.interrupted


def test_half_a_seed_is_not_taken_for_finished(tmp_path: Path) -> None:
    """What a kill leaves while results or explanation are written: the last file is missing."""
    overrides = [*SMALL, "explain.pictures=false", "explain.images=3"]
    settings = {"data": DATA, "epochs": 1, "out": tmp_path, "overrides": overrides}
    seed = reproduce("resnet18-onecycle", **settings).folder / "seed0"
    for lost in ("summary.json", "report.html"):
        names = {lost, "predictions.csv", "mistakes.csv"}
        for name in names:
            (seed / name).unlink()
        assert not is_complete(resight.Run.open(seed))
        reproduce("resnet18-onecycle", **settings)
        assert is_complete(resight.Run.open(seed))
        assert names <= {path.name for path in seed.iterdir()}


def test_a_damaged_mark_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "resnet18-onecycle").mkdir()
    (tmp_path / "resnet18-onecycle" / "data.json").write_text("{")
    with pytest.raises(UsageError, match=r"is damaged .*; remove it"):
        reproduce("resnet18-onecycle", data=DATA, epochs=1, out=tmp_path, overrides=QUICK)


def test_the_figures_that_a_project_shows(tmp_path: Path) -> None:
    result = reproduce(
        "superconvergence", data=DATA, epochs=1, out=tmp_path, all_train=True, overrides=QUICK
    )
    for name in ("lr_find.png", "zigzag.png", "schedule.png", "accuracy.png"):
        assert (result.folder / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((result.folder / "lr_find.json").read_text())["lrs"]
    assert result.runs[0].summary.data.val == 0
    assert result.runs[0].summary.selected_by == "last"


def test_what_is_set_otherwise_is_named_and_variants_are_their_project(tmp_path: Path) -> None:
    result = reproduce(
        "resnet18-layernorm-lr0.1", data=DATA, epochs=1, out=tmp_path,
        overrides=["training.micro_batch=none", "explain={report=false,pictures=false}"],
    )  # fmt: skip
    assert result.published is PUBLISHED["resnet18-layernorm"]
    page = (result.folder / "README.md").read_text()
    assert (
        "Set otherwise than in `resnet18-layernorm-lr0.1`: `schedule.epochs`, "
        "`training.micro_batch`, `explain.report`, `explain.pictures`." in page
    )


def test_a_result_without_a_curve_is_a_point_at_the_last_epoch() -> None:
    assert PUBLISHED["superconvergence"].points == {24: 0.9046}
    assert PUBLISHED["resnet18-plateau"].points[43] == 0.9175
    assert len(PUBLISHED["resnet18-plateau"].points) == 7


def test_bad_names_and_seeds() -> None:
    with pytest.raises(UsageError, match='did you mean "resnet9-onecycle"'):
        reproduce("resnet9-onecyle", data=DATA)
    with pytest.raises(UsageError, match="seeds = 0"):
        reproduce("resnet9-onecycle", data=DATA, seeds=0)


def test_the_interval_of_a_mean_by_hand() -> None:
    interval = mean_interval([0.9, 0.92, 0.91])
    assert interval.value == pytest.approx(0.91)
    assert interval.high - interval.value == pytest.approx(4.303 * 0.01 / 3**0.5)
    with pytest.raises(UsageError, match="1 runs give no interval"):
        mean_interval([0.9])
