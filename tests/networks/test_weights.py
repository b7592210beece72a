"""Weights to start from: what fits is loaded, what does not is named, and no code runs."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import resight
from refusal import refused
from resight.networks import build_model
from resight.networks.weights import load_weights, read_weights
from resight.recipe import ResNet9
from resight.recipe.toml import from_toml
from resight.training.setup import prepare


def network(classes: int = 4, seed: int = 0) -> nn.Module:
    return build_model(ResNet9(), in_channels=3, num_classes=classes, image_size=16, seed=seed)


def equal(a: nn.Module, b: nn.Module) -> set[str]:
    other = b.state_dict()
    return {name for name, value in a.state_dict().items() if torch.equal(value, other[name])}


@pytest.mark.parametrize("form", ["plain", "module", "nested", "both", "outer"])
def test_weights_are_found_under_the_names_that_wrappers_give(form: str) -> None:
    source, target = network(seed=1), network(seed=2)
    weights: dict[str, Tensor] = source.state_dict()
    if form == "module":
        weights = nn.DataParallel(source).state_dict()
    elif form == "nested":
        weights = {f"module.model.{name}": value for name, value in weights.items()}
    elif form == "both":
        weights = {f"_orig_mod.module.{name}": value for name, value in weights.items()}
    elif form == "outer":
        target = nn.ModuleDict({"network": target})
    match = load_weights(target, weights, "x")
    assert match.missing == match.unexpected == ()
    inner = target["network"] if isinstance(target, nn.ModuleDict) else target
    assert equal(inner, source) == {*source.state_dict()}


def test_a_head_of_another_size_stays_fresh_and_is_named() -> None:
    source, target = network(10, seed=1), network(4, seed=2)
    head = {name for name, value in target.state_dict().items() if value.shape[:1] == (4,)}
    before = {name: value.clone() for name, value in target.state_dict().items()}
    match = load_weights(target, source.state_dict(), "x")
    assert {*match.missing} == head == {*match.unexpected}
    assert all(torch.equal(target.state_dict()[name], before[name]) for name in head)
    assert f"{', '.join(match.missing)} start fresh" in str(match)


def test_weights_of_which_nothing_fits_are_refused() -> None:
    with refused("none of its tensors (a.b) fits the network's"):
        load_weights(network(), {"a.b": torch.zeros(3)}, "x")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_files_of_torch_and_safetensors(tmp_path: Path, suffix: str) -> None:
    file, weights = tmp_path / f"w{suffix}", {"conv.weight": torch.arange(4.0)}
    if suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save({"epoch": 3, "state_dict": weights}, file)
    assert torch.equal(read_weights(file)["conv.weight"], weights["conv.weight"])


class _Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("canary"),)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", ["pickle", "code", "empty", "text", "numbers"])
def test_files_that_hold_no_plain_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"w{suffix}"
    if content == "pickle":
        file.write_bytes(pickle.dumps(_Canary()))
    elif content == "code":
        torch.save({"a": torch.zeros(2), "b": _Canary()}, file)
    elif content == "numbers":
        torch.save([1, 2, 3], file)
    else:
        file.write_text({"empty": "", "text": "hello"}[content])
    with refused(str(file)):
        read_weights(file)
    assert not (tmp_path / "canary").exists()


def test_a_recipe_starts_from_the_weights_of_a_run(tiny: resight.Dataset, tmp_path: Path) -> None:
    settings = (
        '[model]\nname = "resnet9"\n[schedule]\nepochs = 1\n'
        "[explain]\nreport = false\npictures = false"
    )
    run = resight.train(from_toml(settings), data=tiny, out=tmp_path, name="first")
    said: list[str] = []
    recipe = from_toml(
        settings.replace("[sch", f'weights = "{run.folder}"\n[sch')
        + "\n[training]\nfreeze_epochs=1"
    )
    setup = prepare(
        recipe,
        data=tiny,
        model=None,
        device="cpu",
        offline=True,
        on_event=lambda event: said.append(str(event)),
    )
    assert equal(setup.state.model, run.model()) == {*run.model().state_dict()}
    assert setup.recipe.model.weights == str(run.folder / "best.safetensors")
    assert any("tensors loaded" in line for line in said)
    with refused("does not exist; give a .safetensors or .pt file, the folder of a run"):
        resight.train(
            from_toml('[model]\nname = "resnet9"\nweights = "nowhere"'), data=tiny, out=tmp_path
        )


def test_the_statistics_of_published_weights(tiny: resight.Dataset) -> None:
    def stats(normalize: str) -> object:
        recipe = from_toml(f"[data]\nnormalize = {normalize}\n[model]\nname='resnet9'")
        return prepare(
            recipe, data=tiny, model=None, device="cpu", offline=True, on_event=lambda event: None
        ).splits.stats

    assert stats('"imagenet"').mean == (0.485, 0.456, 0.406)
    own = stats("{ mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }")
    assert own.std == (0.25, 0.25, 0.25)
    assert stats('"measured"').mean not in ((0.485, 0.456, 0.406), own.mean)
    with refused("data.normalize has 1 means and 1 deviations, but the images have 3 channels"):
        stats("{ mean = [0.5], std = [0.25] }")
