"""The report of predictions by a model that was trained without resight."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import resight
from resight.datasets import Dataset
from resight.errors import UsageError

pytestmark = pytest.mark.slow

CLASSES = ("disc", "bar", "frame")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A plain network, which nobody has trained."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def predictions(model: nn.Module, tiny: Dataset) -> resight.Predictions:
    with torch.inference_mode():
        logits = model(tiny.test.images / 255)
    return resight.Predictions(tiny.test.ids, logits, tiny.test.labels, tiny.classes)


def test_a_folder_with_mistakes_maps_neighbors_and_a_page(
    model: nn.Module, predictions: resight.Predictions, tiny: Dataset, tmp_path: Path
) -> None:
    pixels = tiny.test.images.permute(0, 2, 3, 1).numpy()
    train = (tiny.train.images, tiny.train.labels)
    model.train()
    page = resight.report(
        predictions, pixels, model=model, train=train, layers=["2"], count=4, out=tmp_path / "why"
    )
    assert model.training
    model.eval()
    text = page.read_text()
    assert page == tmp_path / "why" / "report.html"
    assert "Sequential" in text
    assert 'id="recipe"' not in text
    assert 'id="training"' not in text
    rows = (page.parent / "mistakes.csv").read_text().splitlines()
    assert len(rows) == 1 + int((~predictions.correct).sum())
    gallery = json.loads((page.parent / "gallery" / "gallery.json").read_text())
    assert [layer for _, layer, _ in gallery["maps"]] == ["2"]
    assert gallery["neighbors"]
    first = page.read_bytes()
    again = resight.report(
        predictions, pixels, model=model, train=train, layers=["2"], count=4, out=tmp_path / "why"
    )
    assert again.read_bytes() == first
    assert resight.report(page.parent).read_bytes() == first  # from the files of the folder alone


def test_without_a_model_there_are_mistakes_and_no_maps(
    predictions: resight.Predictions, tiny: Dataset, tmp_path: Path
) -> None:
    page = resight.report(predictions, tiny.test.images, out=tmp_path / "why")
    gallery = json.loads((page.parent / "gallery" / "gallery.json").read_text())
    assert gallery["maps"] == []
    assert len(gallery["pictures"]) > 0


def test_a_model_of_a_run_takes_pixels_and_explains_its_own_predictions(
    trained_run: resight.Run, tiny: Dataset, tmp_path: Path
) -> None:
    model = resight.load(trained_run)
    assert not model.training
    with torch.inference_mode():
        logits = model(tiny.test.images)
        assert torch.allclose(logits, model(tiny.test.images / 255), atol=1e-5)
    assert trained_run.predictions is not None
    assert np.allclose(logits.numpy(), trained_run.predictions.logits, atol=1e-4)
    mine = resight.Predictions(tiny.test.ids, logits, tiny.test.labels, model.classes)
    assert resight.report(mine, tiny.test.images, model=model, out=tmp_path / "why").exists()


def test_what_does_not_fit_is_refused(
    model: nn.Module, predictions: resight.Predictions, tiny: Dataset, tmp_path: Path
) -> None:
    images, out = tiny.test.images, tmp_path / "why"
    with pytest.raises(UsageError, match="needs the images"):
        resight.report(predictions, out=out)
    with pytest.raises(UsageError, match="30 images have 31"):
        resight.report(predictions, tiny.test.select(torch.arange(30)), out=out)
    far = resight.Statistics((9.0,) * 3, (0.01,) * 3)
    with pytest.raises(UsageError, match="of the first 31 images only"):
        resight.report(predictions, images.flip(0), model=nn.Sequential(model), stats=far, out=out)
    with pytest.raises(UsageError, match=r"cannot take images \(31, 3"):
        resight.report(predictions, images, model=nn.Linear(5, 3), out=out)
    with pytest.raises(UsageError, match="model goes with predictions, not with a run"):
        resight.report(tmp_path, model=model)
    assert not out.exists()
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="that are no report"):
        resight.report(predictions, images, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((3, 3))}, r"give logits \(2, 3\) and labels \(2,\)"),
        ({"labels": [0, 3]}, "labels are 0 to 3; give 0 to 2"),
        ({"labels": [0.0, 1.0]}, "labels are float64; give the numbers of the classes"),
        ({"labels": [0]}, r"labels \(1,\)"),
        ({"logits": [["a", "b", "c"]] * 2}, "must be arrays of numbers"),
    ],
)
def test_predictions_that_do_not_belong_together(change: dict[str, object], message: str) -> None:
    good = {"ids": ("a", "b"), "logits": [[1, 2, 3], [3, 2, 1]], "labels": [2, 0]}
    assert resight.Predictions(**good, classes=CLASSES).correct.tolist() == [True, True]
    with pytest.raises(UsageError, match=message):
        resight.Predictions(**{**good, **change}, classes=CLASSES)
