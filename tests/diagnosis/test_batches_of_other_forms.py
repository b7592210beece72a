"""`diagnose` with batches that are no plain pair of tensors, and where gradients are off."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from own_loop import Net, pictures, sgd
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import resight
from resight.errors import UsageError

IMAGES, LABELS = pictures(64).tensors


class TakesNests(nn.Module):
    """Takes a tensor, or a tuple or dictionary whose first tensor it uses."""

    def __init__(self, *, as_result: bool = False) -> None:
        super().__init__()
        self.net, self.as_result = Net(), as_result

    def forward(self, inputs: Any) -> Any:
        while not isinstance(inputs, Tensor):
            inputs = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs[0]
        logits = self.net(inputs)
        return {"logits": logits} if self.as_result else logits


def diagnosis_of(batches: Any, *, as_result: bool = False, loss_fn: Any = F.cross_entropy) -> Any:
    torch.manual_seed(0)
    model = TakesNests(as_result=as_result)
    return resight.diagnose(model, sgd(model), loss_fn, batches)


@pytest.mark.parametrize(
    "batch",
    [
        ((IMAGES, torch.ones(64, 2)), LABELS),
        ([IMAGES], LABELS),
        ({"pixels": IMAGES, "size": torch.ones(64)}, LABELS),
        {"pixel_values": IMAGES, "labels": LABELS},
        (IMAGES.numpy(), LABELS.numpy()),
        {"image": IMAGES.numpy(), "label": LABELS.numpy()},
    ],
    ids=["tuple", "list", "dictionary", "labels in a dictionary", "arrays", "arrays by name"],
)
def test_nested_batches_are_checked_as_plain_ones(batch: Any) -> None:
    plain = diagnosis_of([(IMAGES, LABELS)])
    assert plain.issues == ()
    assert diagnosis_of([batch]).passed == plain.passed


def test_logits_inside_a_result_are_checked() -> None:
    plain = diagnosis_of([(IMAGES, LABELS)])
    assert diagnosis_of([(IMAGES, LABELS)], as_result=True).passed == plain.passed
    of_result = diagnosis_of(
        [(IMAGES, LABELS)],
        as_result=True,
        loss_fn=lambda result, labels: F.cross_entropy(result["logits"], labels),
    )
    assert of_result.issues == ()


def test_inference_mode_does_not_matter() -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model)
    with torch.inference_mode():
        made_there = [(IMAGES + 0, LABELS + 0)]
        for batches in ([(IMAGES, LABELS)], made_there):
            diagnosis = resight.diagnose(model, optimizer, F.cross_entropy, batches)
            assert diagnosis.issues == ()
            assert "gradients" in diagnosis.passed
        with pytest.raises(UsageError, match="weights were made in inference mode"):
            diagnosis_of([(IMAGES, LABELS)])


def flat_norm() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def test_a_last_batch_of_one_image() -> None:
    model, data = flat_norm(), pictures(65)
    loader = DataLoader(data, batch_size=16, shuffle=True)
    diagnosis = resight.diagnose(model, sgd(model), F.cross_entropy, loader)
    assert [(issue.severity, issue.check) for issue in diagnosis.issues] == [
        ("error", "norm-batch")
    ]
    for settings in ({"drop_last": True}, {"batch_size": 13}):
        loader = DataLoader(data, **{"batch_size": 16, "shuffle": True, **settings})
        diagnosis = resight.diagnose(model, sgd(model), F.cross_entropy, loader)
        assert diagnosis.issues == ()


def test_a_batch_of_one_image_is_an_error_of_one_line() -> None:
    model = flat_norm()
    one = TensorDataset(IMAGES[:1], LABELS[:1])
    with pytest.raises(UsageError, match="the first batch has 1 image"):
        resight.diagnose(model, sgd(model), F.cross_entropy, DataLoader(one))
