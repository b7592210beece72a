"""Weights and checkpoints that are not as they were written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import resight
from resight.errors import ResightError, UsageError
from resight.events import EpochDone, Message
from resight.runs.checkpoint import _digest, load_model


def head_of(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    head: dict[str, Any] = json.loads(content[8 : 8 + size])
    info: dict[str, Any] = json.loads(head["__metadata__"]["resight"])
    return info


def rewrite(
    file: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]
) -> None:
    """Write the weights again with a change and the checksum that belongs to it."""
    info, weights = head_of(file), load_file(file)
    del info["sha256"]
    change(info, weights)
    info["sha256"] = _digest(weights, info)
    save_file(weights, file, metadata={"resight": json.dumps(info)})


def test_a_changed_byte_of_the_weights_is_noticed(trained_copy: Path) -> None:
    file = trained_copy / "best.safetensors"
    content = file.read_bytes()
    for at in np.random.default_rng(0).integers(len(content), size=60).tolist():
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :])
        with pytest.raises(ResightError, match=r"best\.safetensors is damaged"):
            load_model(trained_copy, None, torch.device("cpu"))
    file.write_bytes(content)
    load_model(trained_copy, None, torch.device("cpu"))


def test_weights_of_nan_are_refused_by_everything_that_uses_them(
    trained_copy: Path, tiny: resight.Dataset
) -> None:
    def spoil(info: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        weights["head.fc.weight"][0, 0] = float("nan")

    rewrite(trained_copy / "best.safetensors", spoil)
    picture = trained_copy.parent / "a.png"
    Image.new("RGB", (16, 16)).save(picture)
    run = resight.Run.open(trained_copy)
    for use in (
        run.model,
        lambda: resight.evaluate(run, data=tiny),
        lambda: resight.predict(run, [picture]),
        lambda: resight.explain(run, data=tiny),
        lambda: resight.explain(run, [picture]),
    ):
        with pytest.raises(ResightError, match=r"NaN or infinite weight in head\.fc\.weight"):
            use()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda info, _: info.update(classes=5), "is damaged: classes"),
        (lambda info, _: info["classes"].append("x"), "do not fit the network of its recipe"),
        (lambda info, _: info.update(recipe="seed = -1"), "is damaged"),
        (lambda info, _: info.update(stats=[]), "is damaged: stats"),
        (lambda info, _: info.pop("epoch"), "is damaged: epoch"),
        (lambda _, weights: weights.popitem(), "do not fit the network of its recipe"),
    ],
)
def test_a_forged_head_is_one_line(
    trained_copy: Path, change: Callable[[Any, Any], object], problem: str
) -> None:
    rewrite(trained_copy / "best.safetensors", change)
    with pytest.raises(ResightError, match=problem) as error:
        load_model(trained_copy, None, torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_weights_of_another_module_are_refused(trained_copy: Path, tiny: resight.Dataset) -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    with pytest.raises(UsageError, match="do not fit the module; pass the one that was trained"):
        resight.evaluate(trained_copy, data=tiny, model=other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["state"].update(rows="x"),
        lambda content: content["state"]["rows"].append({"epoch": "x"}),
        lambda content: content["state"].update(lrs=3),
        lambda content: content["state"].update(step="x"),
        lambda content: content["state"].update(step=10**9),
        lambda content: content["state"].update(model={}),
        lambda content: content["state"].update(step_losses=torch.zeros(1, 2)),
        lambda content: content["state"]["optimizer"].update(param_groups=[]),
        lambda content: content.update(state=None),
        lambda content: content.pop("recipe"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_passed_over_for_the_previous_one(
    trained_copy: Path, tiny: resight.Dataset, change: Callable[[Any], object]
) -> None:
    content = torch.load(trained_copy / "last.pt", weights_only=True)
    change(content)
    torch.save(content, trained_copy / "last.pt")
    (trained_copy / "summary.json").unlink()  # as before its end
    messages: list[str] = []
    epochs: list[int] = []

    def on_event(event: object) -> None:
        if isinstance(event, Message):
            messages.append(event.text)
        if isinstance(event, EpochDone):
            epochs.append(event.row.epoch)

    run = resight.resume(trained_copy, data=tiny, on_event=on_event)
    assert any("was passed over" in message for message in messages)
    assert epochs == [2]  # the second is trained again
    assert run.test.images == len(tiny.test)


def test_no_checkpoint_is_one_line(trained_copy: Path, tiny: resight.Dataset) -> None:
    for name in ("last.pt", "previous.pt"):
        shutil.copy(trained_copy / "README.md", trained_copy / name)
    (trained_copy / "summary.json").unlink()  # as before its end
    with pytest.raises(ResightError, match=r"no checkpoint to resume from: .*last.*; .*previous"):
        resight.resume(trained_copy, data=tiny)


@pytest.mark.parametrize("name", ["best.safetensors", "last.pt"])
def test_a_link_to_a_device_is_not_read(
    trained_copy: Path, tiny: resight.Dataset, name: str
) -> None:
    (trained_copy / name).unlink()
    (trained_copy / name).symlink_to("/dev/zero")
    if name == "last.pt":
        assert resight.resume(trained_copy, data=tiny).test.images == len(tiny.test)
    else:
        with pytest.raises(ResightError, match="is a device, pipe or socket"):
            resight.Run.open(trained_copy).model()
