"""Runs as files for other programs: what is written agrees with torch, or is not written."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import resight
from deploy_networks import NETWORKS, STATS, make_network, pixels
from refusal import refused
from resight.cli.app import main
from resight.datasets import Dataset
from resight.datasets.augment import normalize
from resight.deploy.network import PixelNetwork, class_maps
from resight.deploy.programs import METADATA_FILE, ProgramKind, capture, open_program, write_program
from resight.deploy.verify import expected_outputs
from resight.errors import ResightError
from resight.events import Event, Message
from resight.runs.checkpoint import load_best, save_temperature
from tiny_runs import tiny_recipe

pytestmark = pytest.mark.slow  # importing onnxscript and writing a file takes seconds


def metadata_of(path: Path) -> dict[str, Any]:
    """The JSON of a pt2 file."""
    files = {METADATA_FILE: ""}
    torch.export.load(path, extra_files=files)
    content: dict[str, Any] = json.loads(files[METADATA_FILE])
    return content


# The plain ones have no operation that these lack.
PROGRAMS = [name for name in NETWORKS if name not in ("resnet9", "resnet18")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_agrees_with_torch_on_any_number_of_images(
    name: str, kind: ProgramKind, tmp_path: Path
) -> None:
    model, images = make_network(NETWORKS[name]), pixels(9)
    maps = class_maps(model, normalize(images[:4], STATS))
    program = capture(PixelNetwork(model, STATS, maps=maps), images[:2])
    path = tmp_path / f"model.{kind}"
    write_program(program, path, kind, {"a": "é"})
    run = open_program(path, kind)
    for count in (1, 2, 9):
        outputs = run(images[:count].numpy())
        expected = expected_outputs(model, images[:count], STATS, with_maps=True)
        assert list(outputs) == list(expected)
        for output, value in expected.items():
            assert outputs[output].shape == value.shape
            assert np.abs(outputs[output] - value).max() < 1e-4


def test_a_run_becomes_a_program(trained_run: resight.Run, tiny: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    result = resight.export(trained_run, to="pt2", out=path, data=tiny)
    assert result.path == path
    assert result.images == "31 test images"
    assert result.difference is not None
    assert result.difference < 1e-5
    assert str(path) in str(result)
    outputs = open_program(path, "pt2")(tiny.test.images.numpy())
    predictions = trained_run.predictions
    assert predictions is not None
    np.testing.assert_allclose(outputs["logits"], predictions.logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"], predictions.probs, rtol=0, atol=1e-5)
    about = metadata_of(path)
    assert about["classes"] == list(tiny.classes)
    assert (about["image_size"], about["channels"], about["resize"]) == (16, 3, "crop")
    assert about["resight"] == resight.__version__
    assert resight.from_toml(about["recipe"]).model == trained_run.recipe.model
    # The last map of more than one cell is that of block2, which is no input of the pooling.
    assert about["heatmap"] is None
    assert any("no output heatmap" in note for note in result.notes)


def test_the_command_writes_onnx_into_the_run(
    trained_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    assert main(["export", str(trained_copy), "--to", "onnx", "--json"]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert content["path"] == str(trained_copy / "model.onnx")
    assert content["difference"] < 1e-5
    assert content["images"] == "100 images of noise"  # the data was passed in from Python
    assert "noise stands in for the test images" in err
    session = onnxruntime.InferenceSession(trained_copy / "model.onnx")
    assert [value.name for value in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert session.get_inputs()[0].shape[1:] == [3, 16, 16]
    about = json.loads(session.get_modelmeta().custom_metadata_map["resight"])
    assert about["classes"] == ["disc", "bar", "frame"]
    assert main(["export", str(trained_copy), "--to", "onnx"]) == 2
    assert "pass --force" in capsys.readouterr().err
    program = trained_copy / "model.pt2"  # which is quicker to write than a second ONNX
    program.write_bytes(b"")
    assert main(["export", str(trained_copy), "--to", "pt2", "--force", "--quiet"]) == 0
    assert program.stat().st_size > 0


class TwoFaced(nn.Module):
    """A network that does something else while it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits + 0.01 * torch.compiler.is_exporting()


class Branching(nn.Module):
    """A network whose way depends on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits if logits.sum() > 0 else -logits


@pytest.fixture
def custom_run(tiny: Dataset, tmp_path: Path) -> tuple[resight.Run, dict[str, nn.Module]]:
    """A run of a linear network, and modules that its weights fit."""
    models: dict[str, nn.Module] = {"two-faced": TwoFaced(), "branching": Branching()}
    recipe = tiny_recipe("schedule.epochs=1")
    run = resight.train(recipe, data=tiny, model=Branching(), out=tmp_path, name="run")
    return run, models


def test_a_program_that_differs_is_not_written(
    custom_run: tuple[resight.Run, dict[str, nn.Module]], tiny: Dataset, tmp_path: Path
) -> None:
    run, models = custom_run
    path = tmp_path / "model.pt2"
    path.write_text("older")
    with refused("was not written: on 31 test images the program differs", ResightError):
        resight.export(run, to="pt2", out=path, data=tiny, model=models["two-faced"], force=True)
    assert path.read_text() == "older"
    assert not list(tmp_path.glob(".*.part*"))


def test_a_network_that_cannot_be_followed_is_one_line(
    custom_run: tuple[resight.Run, dict[str, nn.Module]], tiny: Dataset, tmp_path: Path
) -> None:
    run, models = custom_run
    with refused("the Branching cannot be exported", ResightError):
        resight.export(run, to="pt2", out=tmp_path / "a.pt2", data=tiny, model=models["branching"])
    assert not (tmp_path / "a.pt2").exists()


def test_the_temperature_is_in_the_probabilities_alone(
    trained_copy: Path, trained_run: resight.Run, tiny: Dataset
) -> None:
    save_temperature(trained_copy, 4.0)
    path = resight.export(trained_copy, to="pt2", data=tiny).path
    outputs = open_program(path, "pt2")(tiny.test.images.numpy())
    predictions = trained_run.predictions
    assert predictions is not None
    np.testing.assert_allclose(outputs["logits"], predictions.logits, rtol=0, atol=1e-4)
    expected = np.exp(predictions.log_probs / 4)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=1e-5)
    assert metadata_of(path)["temperature"] == 4.0


def test_arguments_that_do_not_go_together(trained_copy: Path, tmp_path: Path) -> None:
    with refused("to = 'onx'; did you mean \"onnx\"?"):
        resight.export(trained_copy, to="onx")  # type: ignore[arg-type]
    with refused("license = 'mit' is for --to hub"):
        resight.export(trained_copy, to="pt2", license="mit")
    with refused("data = digits is for programs, not for --to hub"):
        resight.export(trained_copy, to="hub", data="digits")
    with refused("push = 'me' is no repository of the hub; write owner/name"):
        resight.export(trained_copy, to="hub", push="me")
    with refused("must end in .pt2"):
        resight.export(trained_copy, to="pt2", out=tmp_path / "model.onnx")
    (tmp_path / "folder.pt2").mkdir()
    with refused("is a folder; name another place"):
        resight.export(trained_copy, to="pt2", out=tmp_path / "folder.pt2", force=True)
    (tmp_path / "file").write_text("")
    with refused("is a file; name another place"):
        resight.export(trained_copy, to="hub", out=tmp_path / "file", force=True)
    with refused("nowhere does not exist; make it"):
        resight.export(trained_copy, to="pt2", out=tmp_path / "nowhere" / "model.pt2")


def test_data_of_another_kind_is_refused(trained_copy: Path, tmp_path: Path) -> None:
    with refused("the test images are (1, 16, 16)"):
        resight.export(trained_copy, to="pt2", out=tmp_path / "a.pt2", data="digits")


def test_what_the_program_does_otherwise_than_the_run_is_said(
    tiny: Dataset, tmp_path: Path
) -> None:
    settings = ("schedule.epochs=1", "evaluation.tta=flip", "training.precision=bf16")
    run = resight.train(tiny_recipe(*settings), data=tiny, out=tmp_path, name="run")
    messages: list[Event] = []
    result = resight.export(run, to="pt2", on_event=messages.append)
    assert any("2 views (flip)" in note and "--tta none" in note for note in result.notes)
    assert any("float32, and the run in bf16" in note for note in result.notes)
    assert any("noise" in event.text for event in messages if isinstance(event, Message))


# --- the hub ---------------------------------------------------------------------------------


def test_the_hub_folder(trained_copy: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    folder = tmp_path / "hub"
    result = resight.export(trained_copy, to="hub", out=folder, license="mit")
    assert result.difference is None
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    weights, _ = load_best(trained_copy)
    written = load_file(folder / "model.safetensors")
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], value) for name, value in weights.items())
    card = ModelCard.load(folder / "README.md")
    test = resight.Run.open(trained_copy).test
    assert card.data.license == "mit"
    [accuracy, loss] = card.data.eval_results
    assert (accuracy.metric_type, accuracy.dataset_name) == ("accuracy", "tiny")
    assert accuracy.metric_value == pytest.approx(test.accuracy.value, abs=1e-4)
    assert loss.metric_value == pytest.approx(test.loss, abs=1e-4)
    assert "31" in card.text
    assert "recipe.toml" not in card.text
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == ["disc", "bar", "frame"]
    with refused("exists; pass --force"):
        resight.export(trained_copy, to="hub", out=folder)
    resight.export(trained_copy, to="hub", out=folder, force=True)
    assert ModelCard.load(folder / "README.md").data.license == "unknown"


def test_the_card_of_a_run_folder_has_the_same_text(trained_copy: Path, tmp_path: Path) -> None:
    resight.export(trained_copy, to="hub", out=tmp_path / "hub")
    own, hub = (
        (folder / "README.md").read_text().split("---\n")[2].splitlines()
        for folder in (trained_copy, tmp_path / "hub")
    )
    assert own[:8] == hub[:8]


def test_no_folder_of_this_machine_is_published(tiny: Dataset, tmp_path: Path) -> None:
    secret = tmp_path / "alice" / "photos"
    for label, name in enumerate(tiny.classes):
        (secret / name).mkdir(parents=True)
        for row in (tiny.train.labels == label).nonzero().flatten()[:12].tolist():
            pixels = tiny.train.images[row].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(secret / name / f"{row}.png")
    settings = ("schedule.epochs=1", "training.batch_size=8")
    run = resight.train(tiny_recipe(*settings), data=secret, out=tmp_path, name="run")
    assert "alice" in (run.folder / "recipe.toml").read_text()
    resight.export(run, to="hub", out=tmp_path / "hub")
    resight.export(run, to="pt2", out=tmp_path / "model.pt2")
    for file in ("README.md", "config.json"):
        text = (tmp_path / "hub" / file).read_text()
        assert "alice" not in text
        assert "photos" in text
    assert b"alice" not in (tmp_path / "model.pt2").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("offline", [True, False])
def test_a_push_that_cannot_be_is_one_line(trained_copy: Path, offline: bool) -> None:
    where = {"HF_HUB_OFFLINE": "1"} if offline else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    home = {"HF_HOME": str(trained_copy / "nobody"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = ["export", str(trained_copy), "--to", "hub", "--push", "nobody/nothing"]
    result = subprocess.run(
        [sys.executable, "-m", "resight", *command],
        env={**os.environ, **home, **where, "HF_TOKEN": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert "was written, but not pushed to nobody/nothing" in line
    assert (trained_copy / "hub" / "README.md").exists()


# --- networks of a person's own, and run folders of a stranger --------------------------------

CODE = """
import pathlib

from torch import nn

pathlib.Path("imported").touch()  # the canary: it is there if this code has run


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, num_classes)

    def forward(self, images):
        return self.head(self.conv(images).mean(dim=(2, 3))), images
"""


@pytest.fixture
def imported_run(
    tmp_path: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> Iterator[resight.Run]:
    """A run of a network in the working folder, whose code has not run since."""
    monkeypatch.chdir(tmp_path)
    Path("own_net.py").write_text(CODE)
    settings = ("schedule.name=constant", "schedule.epochs=1")
    network = ("model.name=import", "model.target=own_net:Net")
    run = resight.train(
        resight.with_overrides(
            resight.load_recipe("base"), ["augment.crop=none", *settings, *network]
        ),
        data=tiny,
        out=tmp_path,
        name="run",
    )
    sys.modules.pop("own_net")
    Path("imported").unlink()
    yield run
    sys.modules.pop("own_net", None)


@pytest.mark.parametrize("command", ["export --to pt2", "export --to onnx", "serve --port 0"])
def test_a_run_folder_imports_nothing_by_itself(
    imported_run: resight.Run, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command.split()
    assert main([name, str(imported_run.folder), *options]) == 2
    assert "allow it with --allow-import" in capsys.readouterr().err
    assert not Path("imported").exists()


def test_weights_go_to_the_hub_without_their_code(imported_run: resight.Run) -> None:
    resight.export(imported_run, to="hub")
    assert not Path("imported").exists()
    assert "network.conv.weight" in load_file(imported_run.folder / "hub" / "model.safetensors")


def test_a_network_of_ones_own_is_exported_with_its_heat_map(
    imported_run: resight.Run, tiny: Dataset
) -> None:
    run = resight.Run.open(imported_run.folder, allow_import=True)
    result = resight.export(run, to="pt2", data=tiny)
    assert result.outputs == ("probabilities", "logits", "heatmap")
    assert Path("imported").exists()
    assert metadata_of(result.path)["heatmap"] == "network.conv"
