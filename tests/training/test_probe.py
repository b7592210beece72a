"""A head fitted to the features of a held network, against scikit-learn's logistic regression."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import resight
from refusal import refused
from resight.datasets import Split, statistics
from resight.datasets.augment import normalize
from resight.datasets.cache_entries import list_entries
from resight.networks import build_model
from resight.recipe import LinearProbe, Recipe, ResNet9
from resight.recipe.toml import from_toml, with_changes
from resight.training.features import features as cached_features
from resight.training.probe import fit_head
from resight.training.state import TrainData

pytestmark = pytest.mark.slow

CLASSES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def split(n: int, seed: int) -> Split:
    """Return images whose brightness, with much noise, tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    noise = torch.randint(-90, 90, (n, 3, 16, 16), generator=generator)
    images = (80 + 40 * labels[:, None, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return Split(images, labels, tuple(map(str, range(n))))


def data() -> TrainData:
    train = split(120, 0)
    return TrainData(train, split(60, 1), statistics(train), CLASSES)


def network(**settings: object) -> nn.Module:
    spec = ResNet9.model_validate(settings)
    return build_model(spec, in_channels=3, num_classes=3, image_size=16, seed=0).eval()


def recipe(**probe: object) -> Recipe:
    changes = {"probe": probe, "schedule": {"name": "constant", "epochs": 1}}
    return with_changes(Recipe(), changes, origin="test")


@torch.no_grad()
def features(model: nn.Module, part: Split, data: TrainData) -> np.ndarray:
    seen: list[Tensor] = []
    hook = model.head.fc.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(normalize(part.images, data.stats))
    hook.remove()
    return seen[0].numpy()


@pytest.mark.parametrize("logit_scale", [1.0, 0.125])
@pytest.mark.parametrize("balanced", [False, True])
def test_it_is_logistic_regression_on_scaled_features(logit_scale: float, balanced: bool) -> None:
    given, l2 = data(), 0.03
    model = network(logit_scale=logit_scale)
    weighted = {"loss": {"class_weights": "balanced"}} if balanced else {}
    fit = fit_head(model, with_changes(recipe(l2=l2), weighted, origin="test"), given)
    scaler = StandardScaler().fit(features(model, given.train, given))
    labels = given.train.labels.numpy()
    oracle = LogisticRegression(
        C=1 / (l2 * len(labels)),
        max_iter=2000,
        tol=1e-8,
        class_weight="balanced" if balanced else None,
    ).fit(scaler.transform(features(model, given.train, given)), labels)
    with torch.no_grad():
        logits = model(normalize(given.val.images, given.stats))
    expected = oracle.predict_proba(scaler.transform(features(model, given.val, given)))
    assert np.allclose(logits.softmax(1).numpy(), expected, atol=2e-3)
    loss = torch.nn.functional.cross_entropy(logits, given.val.labels)
    assert fit.val_loss == pytest.approx(float(loss), abs=1e-3)
    assert fit.l2 == l2


def test_the_penalty_has_the_lowest_validation_loss() -> None:
    given = data()
    chosen = fit_head(network(), recipe(), given)
    for l2 in (10.0, 1.0, 0.1, 0.01, 0.001):
        fixed = fit_head(network(), recipe(l2=l2), given)
        assert chosen.val_loss <= fixed.val_loss + 1e-3
    assert 1e-4 <= chosen.l2 <= 10


def test_mirrored_images_count_where_the_recipe_flips() -> None:
    """An image and its mirror weigh alike, so the fit is the same from mirrored images."""
    given = data()
    flips = with_changes(recipe(l2=0.1), {"augment": {"flip": "random"}}, origin="test")
    model, mirrored = network(), network()
    fit_head(model, flips, given)
    turned = replace(given.train, images=given.train.images.flip(-1))
    fit_head(mirrored, flips, replace(given, train=turned))
    assert torch.allclose(model.head.fc.weight, mirrored.head.fc.weight, atol=1e-3)


def test_what_cannot_be_fitted_is_refused() -> None:
    with refused('probe.l2 = "auto" is chosen by validation, but nothing is held out'):
        fit_head(network(), recipe(), replace(data(), val=None))
    with refused("a probe fits a linear layer with a bias"):
        fit_head(nn.Sequential(nn.Conv2d(3, 3, 1)), recipe(), data())
    with refused("as a probe needs it"):
        fit_head(nn.Sequential(nn.Linear(16, 16), nn.Flatten(), nn.Softmax(1)), recipe(), data())
    squared = nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.Sigmoid())
    with refused("are no multiple of what its last linear layer makes"):
        fit_head(squared, recipe(), data())
    with refused("probe.only = true takes no steps, but schedule.epochs = 20"):
        with_changes(Recipe(), {"probe": {}}, origin="test")
    assert LinearProbe().only


@pytest.mark.slow
def test_a_run_that_ends_with_its_probe(tiny: resight.Dataset, tmp_path: Path) -> None:
    run = resight.train(
        from_toml(
            '[model]\nname = "resnet9"\n[schedule]\nname = "constant"\nepochs = 1\n'
            "[probe]\nl2 = 0.1\n[explain]\npictures = false\nimages = 3\nmaps = 4"
        ),
        data=tiny,
        out=tmp_path,
    )
    assert not run.interrupted
    assert run.test.accuracy.value > 0.5  # random features tell a disc from a bar
    [row] = run.history.epochs
    assert row.step == 0
    assert row.val_accuracy is not None
    assert (run.folder / "report.html").exists()
    assert resight.evaluate(run, data=tiny).test == run.test
    assert resight.doctor(run) is not None
    assert resight.resume(run.folder, data=tiny).test == run.test


def test_training_goes_on_from_the_fitted_head(tiny: resight.Dataset, tmp_path: Path) -> None:
    said: list[str] = []
    run = resight.train(
        from_toml(
            '[model]\nname = "resnet9"\nnorm = "layer"\n[schedule]\nepochs = 1\n'
            "[probe]\nonly = false\nl2 = 0.1\n"
            "[optimizer]\nlr = 0.001\nbackbone_lr_scale = 0.1\n"
            "[explain]\nreport = false\npictures = false"
        ),
        data=tiny,
        out=tmp_path,
        on_event=lambda event: said.append(str(event)),
    )
    assert any("head fitted to" in line for line in said)
    assert run.history.losses[0] < 0.8 * np.log(3)  # below the loss of guessing from the start


def test_features_are_computed_once_for_the_same_weights_and_images(cache: Path) -> None:
    """A head of another seed changes the fit by rounding, and a few images run again."""
    given, plain = data(), recipe(l2=0.1)
    first, second = network(), network()
    passes: list[int] = []
    fit_head(first, plain, given)
    second.head.fc.reset_parameters()  # of another seed
    hook = second.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    fit_head(second, plain, given)
    hook.remove()
    assert sum(passes) == 2 * 8 + 2 * 4  # for the scale of the logits, and 4 images a split
    assert torch.allclose(first.head.fc.weight, second.head.fc.weight, rtol=1e-5, atol=1e-7)
    assert {(entry.kind, entry.name) for entry in list_entries()} == {("features", "digits")}


@pytest.mark.parametrize("change", ["weights", "images", "stats", "forward", "file"])
def test_features_of_something_else_are_computed_anew(cache: Path, change: str) -> None:
    given, model = data(), network()
    before = cached_features(model, given.train, given.stats, keep="data")
    stats, part = given.stats, given.train
    match change:
        case "weights":
            with torch.no_grad():
                next(model.parameters()).mul_(2)
        case "images":
            part = split(120, 5)
        case "stats":
            stats = replace(stats, mean=(0.1, 0.2, 0.3))
        case "forward":  # which no weight shows
            first = next(iter(model.children()))
            first.register_forward_hook(lambda _, args, output: output * 2)
        case "file":
            (path,) = (cache / "features").iterdir()
            path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    after = cached_features(model, part, stats, keep="data")
    expected = cached_features(model, part, stats)
    assert torch.equal(after, expected)
    assert torch.equal(after, before) == (change == "file")
    assert torch.equal(cached_features(model, part, stats, keep="data"), expected)
