"""Networks by import path: from a recipe file alone, and never from a run folder by itself."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

import resight
from refusal import refused
from resight.events import EpochDone
from resight.networks import build_model
from resight.networks.imported import check_allowed, import_network, source_digest
from resight.networks.outputs import LogitsOnly
from resight.recipe import Import
from resight.recipe.toml import from_toml, to_toml

CODE = """
import collections
import pathlib

import torch
from torch import nn

pathlib.Path("imported").touch()  # the canary: it is there if this code has run


class Net(nn.Module):
    def __init__(self, num_classes, width=4, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.conv(images).mean(dim=(2, 3)))


Result = collections.namedtuple("Result", "logits features")


class WithFeatures(Net):
    def forward(self, images):
        return Result(super().forward(images), images)


def maker(num_classes):
    return Net(num_classes)


def no_network(num_classes):
    return num_classes


number = 3
"""


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with net.py in it, which no other test has imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    yield tmp_path / "net.py"
    sys.modules.pop("net", None)


def build(**settings: object) -> torch.nn.Module:
    spec = Import.model_validate({"target": "net:Net", **settings})
    return import_network(spec, in_channels=1, num_classes=3, image_size=8)


@pytest.mark.usefixtures("own_file")
def test_a_class_a_function_and_arguments() -> None:
    paths = list(sys.path)
    assert build().head.out_features == 3
    assert build(target="net:maker").head.out_features == 3
    network = build(args={"width": 6}, channels_arg="channels")
    assert network.conv.weight.shape == (6, 1, 3, 3)
    assert network.training
    assert sys.path == paths


@pytest.mark.usefixtures("own_file")
def test_logits_of_a_result_are_taken() -> None:
    network = build(target="net:WithFeatures")
    assert isinstance(network, LogitsOnly)
    assert network(torch.zeros(5, 1, 8, 8)).shape == (5, 3)


@pytest.mark.usefixtures("own_file")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "nett:Net"}, "there is no module nett: neither nett.py in the working folder"),
        ({"target": "net:Nett"}, 'net has no Nett; did you mean "Net"?'),
        ({"target": "net:number"}, "is of type int; name a class or a function"),
        ({"target": "net:no_network"}, "returns int, no nn.Module"),
        ({"args": {"widht": 2}}, "unexpected keyword argument 'widht'"),
        ({"classes_arg": "width", "args": {"num_classes": 5}}, "returns (2, 5) for 2 images of 3"),
        ({"args": {"channels": 3}}, "fails on 1 channels of 8 px"),
    ],
)
def test_what_cannot_be_used_is_named(settings: dict[str, object], words: str) -> None:
    with refused(words):
        build(**settings)


def test_code_that_fails_is_named(own_file: Path) -> None:
    own_file.write_text("1 / 0")
    with refused("importing net failed (ZeroDivisionError: division by zero)"):
        build()


@pytest.mark.parametrize("target", ["", "net", "net.Net", "../net:Net", "net:Net()", "a b:c"])
def test_a_target_is_an_import_path(target: str) -> None:
    with refused("is no import path; write package.module:callable"):
        from_toml(f'[model]\nname = "import"\ntarget = "{target}"')


def test_the_section_survives_toml() -> None:
    recipe = from_toml(
        '[model]\nname = "import"\ntarget = "a.b:c"\nargs = { x = [1, 2], y = 0.5, z = true }'
    )
    assert isinstance(recipe.model, Import)
    assert recipe.model.args == {"x": [1, 2], "y": 0.5, "z": True}
    assert from_toml(to_toml(recipe)) == recipe


def test_importing_has_to_be_allowed(own_file: Path) -> None:
    spec = Import(target="net:Net")
    sizes = {"in_channels": 1, "num_classes": 3, "image_size": 8, "seed": 0}
    with refused("importing it runs code"):
        build_model(spec, **sizes)
    assert not own_file.with_name("imported").exists()
    first, again = (build_model(spec, **sizes, allow_import=True) for _ in range(2))
    assert torch.equal(first.head.weight, again.head.weight)  # drawn from the seed


def test_own_recipes_import_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to allow their network, and no file of its name in the working folder is run."""
    spec = resight.load_recipe("probe").model
    assert isinstance(spec, Import)
    check_allowed(spec, allow_import=False)
    with refused("importing it runs code"):
        check_allowed(
            Import(target="efficientnet_lite_pytorch.utils:os.system"), allow_import=False
        )
    monkeypatch.chdir(tmp_path)
    Path("efficientnet_lite_pytorch.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.delitem(sys.modules, "efficientnet_lite_pytorch", raising=False)
    with suppress(resight.UsageError):  # it may not be installed
        source_digest(spec.target)
    assert not Path("ran").exists()


@pytest.mark.slow
def test_from_a_recipe_file_alone(own_file: Path, tiny: resight.Dataset) -> None:
    """Train, resume, evaluate, predict, explain; from the folder only if it is allowed."""
    channels = tiny.train.images.shape[1]
    recipe = from_toml(
        f"""
        [model]
        name = "import"
        target = "net:WithFeatures"
        args = {{ channels = {channels} }}
        [schedule]
        epochs = 2
        [training]
        batch_size = 16
        """
    )
    run = resight.train(recipe, data=tiny, name="whole")
    saved = run.recipe.model
    assert isinstance(saved, Import)
    assert saved.digest == source_digest("net:Net")

    def stop(event: object) -> None:
        if isinstance(event, EpochDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resight.train(recipe, data=tiny, name="cut", on_event=stop)
    sys.modules.pop("net")
    own_file.with_name("imported").unlink()
    Image.new("RGB", (16, 16)).save("a.png")
    for act in (
        lambda: resight.evaluate("runs/whole", data=tiny),
        lambda: resight.explain("runs/whole", data=tiny),
        lambda: resight.predict("runs/whole", ["a.png"]),
        lambda: resight.export("runs/whole", to="pt2"),
        lambda: resight.serve("runs/whole", data=tiny),
        lambda: resight.Run.open("runs/whole").model(),
        lambda: resight.resume("runs/cut", data=tiny),
    ):
        with refused("allow it with --allow-import"):
            act()
    assert "finished" in resight.doctor("runs/whole").passed  # by its files, without its network
    with refused("allow it with --allow-import"):
        resight.doctor(recipe, data=tiny)  # of a recipe, nothing is trained yet
    assert not own_file.with_name("imported").exists()

    shutil.copytree("runs/cut", "runs/changed")
    resumed = resight.resume("runs/cut", data=tiny, allow_import=True)
    assert resumed.test == run.test
    opened = resight.Run.open("runs/whole", allow_import=True)
    assert resight.evaluate(opened, data=tiny).test.accuracy == run.test.accuracy
    assert resight.explain(opened, data=tiny).failed == ()
    assert "outputs" in resight.doctor(recipe, data=tiny, allow_import=True).passed

    own_file.write_text(CODE + "\n# changed\n")
    with refused("is not the one of model.digest"):
        resight.resume("runs/changed", data=tiny, allow_import=True)
    said: list[str] = []
    resight.evaluate(opened, data=tiny, on_event=lambda event: said.append(str(event)))
    assert any("net:WithFeatures has changed since the run was trained" in line for line in said)
