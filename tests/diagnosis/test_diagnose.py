"""`diagnose`: which checks it makes, which it skips, and that it leaves everything as it was."""

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from own_loop import (
    CLASSES,
    Net,
    diagnose_loop,
    flip,
    one_batch,
    pictures,
    sgd,
    shuffled,
    usual_step,
)
from torch import Tensor
from torch.utils.data import DataLoader

import resight
from refusal import refused
from resight.diagnosis.diagnose import OBJECT_CHECKS


def test_a_training_without_an_issue_passes_every_check() -> None:
    diagnosis = diagnose_loop(step=usual_step)
    assert diagnosis.issues == ()
    assert diagnosis.passed == (*OBJECT_CHECKS, "augment")
    assert list(OBJECT_CHECKS)[-1] == "weight-decay"  # of notes the least important
    assert not diagnosis.skipped


def test_checks_of_missing_arguments_are_skipped() -> None:
    model = Net()
    diagnosis = resight.diagnose(model, sgd(model), F.cross_entropy, [pictures(64).tensors])
    assert diagnosis.issues == ()
    arguments = ("scheduler", "steps", "val_batches", "augment", "step")
    needs = {name: reason for name, reason in diagnosis.skipped.items() if "=" in reason}
    assert set(needs) == {
        *("scheduler-optimizer", "schedule-length", "augment"),
        *("validation-data", "validation-pixels", "validation-labels"),
        *("step-gradient", "step-clipping", "step-learning"),
    }
    assert all(any(f"{name}=" in reason for name in arguments) for reason in needs.values())
    assert set(diagnosis.skipped) - set(needs) == {"class-shares", "dataset-transform"}


def test_a_check_that_raises_is_skipped() -> None:
    def raises(images: Tensor) -> Tensor:
        raise RuntimeError("made for\nother images")

    diagnosis = diagnose_loop(augment=raises, step=usual_step)
    assert diagnosis.issues == ()
    assert diagnosis.skipped == {"augment": "RuntimeError: made for other images"}


def test_labels_that_are_not_classes_skip_checks() -> None:
    diagnosis = diagnose_loop(
        batches=lambda: one_batch(torch.randn(64, 3, 8, 8), torch.rand(64, CLASSES))
    )
    assert diagnosis.issues == ()
    assert {"num-outputs", "first-loss", "validation-labels"} <= set(diagnosis.skipped)


def test_a_learning_rate_of_0() -> None:
    model = Net()
    optimizer = sgd(model, lr=0.0)
    diagnosis = resight.diagnose(model, optimizer, F.cross_entropy, shuffled(pictures()))
    assert [issue.check for issue in diagnosis.errors] == ["learning-rate"]


def test_a_pixel_that_is_nan_is_the_first_error() -> None:
    def images() -> Tensor:
        values = torch.randn(64, 3, 8, 8)
        values[0, 0, 0, 0] = torch.nan
        return values

    diagnosis = diagnose_loop(images=images)
    assert diagnosis.errors[0].check == "pixel-values"
    assert "1 values are NaN or infinite" in diagnosis.errors[0].message
    assert "augment" in diagnosis.passed


def test_each_of_several_transforms_is_checked() -> None:
    diagnosis = diagnose_loop(augment={"flip": flip, "cutout": lambda images: images})
    assert [issue.check for issue in diagnosis.issues] == ["augment cutout"]
    assert "augment flip" in diagnosis.passed


def test_everything_is_restored() -> None:
    def cutout(images: Tensor) -> Tensor:
        images[:, :, 2:6, 2:6] = 0
        return images

    model = Net().eval()
    optimizer = sgd(model)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # type: ignore[index,union-attr]  # noqa: NPY002
    images, labels = pictures(64).tensors
    pixels = images.clone()
    resight.diagnose(model, optimizer, F.cross_entropy, [(images, labels)], augment=cutout)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not model.training
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.conv.weight.grad is None
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), random_before[0])
    assert random.getstate() == random_before[1]
    assert (np.random.get_state()[1] == random_before[2]).all()  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(images, pixels)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_diagnosis_does_not_depend_on_the_seed() -> None:
    def seldom_flipped(images: Tensor) -> Tensor:
        return images.flip(-1) if torch.rand(1) < 0.1 else images

    model, generator = Net(), torch.Generator().manual_seed(1)
    before = generator.get_state()
    loader = DataLoader(pictures(), 64, shuffle=True, generator=generator)
    texts = set()
    for seed in range(8):
        torch.manual_seed(seed)
        diagnosis = resight.diagnose(
            model, sgd(model), F.cross_entropy, loader, augment=seldom_flipped
        )
        texts.add(repr(diagnosis))
    assert len(texts) == 1
    assert torch.equal(generator.get_state(), before)


TWO = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches is empty"),
        ([TWO], "a batch is a Tensor, not (images, labels)"),
        ([(TWO, [0, 1])], "labels of type list; give two tensors"),
        ([(TWO, torch.tensor([0, CLASSES]))], "label 10 is none of the model's 10 classes, 0 to 9"),
    ],
)
def test_wrong_batches_are_an_error_of_one_line(batches: Any, message: str) -> None:
    model = Net()
    with refused(message):
        resight.diagnose(model, sgd(model), F.cross_entropy, batches)


def test_printed_errors_come_before_warnings_and_notes() -> None:
    diagnosis = diagnose_loop(
        augment=lambda images: images,
        batches=lambda: DataLoader(pictures(), batch_size=64),
        optimizer=lambda model: sgd(model, weight_decay=5e-4),
    )
    lines = repr(diagnosis).splitlines()
    kinds = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert kinds == ["error", "warning", "note", "passed", "skipped"]
    assert "it changes none of 64 images in 8 draws" in lines[0]
