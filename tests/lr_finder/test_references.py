"""The losses of a guess and of a perfect answer, against values worked by hand."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resight.lr_finder.references import reference_losses

N, K = 12, 4
LABELS = torch.arange(N) % K
ONE_HOT = F.one_hot(LABELS, K).float()
LOGITS = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
SHARE = 0.1  # of label smoothing: entropy of 1 - SHARE + SHARE / K and three of SHARE / K
SMOOTHED = -(0.925 * math.log(0.925) + 3 * 0.025 * math.log(0.025))


@pytest.mark.parametrize(
    ("loss_fn", "outputs", "chance", "floor"),
    [
        (F.cross_entropy, LOGITS, math.log(K), 0),
        (F.cross_entropy, LOGITS.bfloat16(), math.log(K), 0),
        (lambda out, y: F.cross_entropy(out, y) + 7, LOGITS, math.log(K) + 7, 7),
        (lambda out, y: F.cross_entropy(out, y) / 100, LOGITS, math.log(K) / 100, 0),
        (nn.CrossEntropyLoss(label_smoothing=SHARE), LOGITS, math.log(K), SMOOTHED),
        (F.multi_margin_loss, LOGITS, (K - 1) / K, 0),
        (F.nll_loss, LOGITS.log_softmax(1), math.log(K), 0),
        (lambda out, y: F.nll_loss(out.log(), y), LOGITS.softmax(1), math.log(K), 0),
        (lambda out, y: -out.gather(1, y[:, None]).mean(), LOGITS.softmax(1), -1 / K, -1),
    ],
)
def test_class_numbers(loss_fn, outputs: Tensor, chance: float, floor: float) -> None:
    guess, perfect = reference_losses(loss_fn, outputs, LABELS)
    assert guess == pytest.approx(chance, rel=1e-6)
    assert perfect == pytest.approx(floor, rel=0.02, abs=1e-6)


ENTROPY = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))  # of one label in four


@pytest.mark.parametrize(
    ("loss_fn", "outputs", "targets", "chance", "floor"),
    [
        (F.mse_loss, LOGITS, ONE_HOT, 0.25 * 0.75, 0),  # the variance
        (F.mse_loss, LOGITS[:, :1], LABELS[:, None].float(), 1.25, 0),  # of 0, 1, 2 and 3
        (lambda out, y: F.mse_loss(out[:, 0], y), LOGITS[:, :1], LABELS.float(), 1.25, 0),
        (F.binary_cross_entropy_with_logits, LOGITS, ONE_HOT, ENTROPY, 0),
        (F.binary_cross_entropy, LOGITS.sigmoid(), ONE_HOT, ENTROPY, 0),
        (F.cross_entropy, LOGITS, 0.9 * ONE_HOT + 0.025, math.log(K), SMOOTHED),
        (nn.KLDivLoss(reduction="batchmean"), LOGITS.log_softmax(1), ONE_HOT, math.log(K), 0),
    ],
)
def test_a_target_for_each_output(
    loss_fn, outputs: Tensor, targets: Tensor, chance: float, floor: float
) -> None:
    guess, perfect = reference_losses(loss_fn, outputs, targets)
    assert guess == pytest.approx(chance, rel=1e-4)
    assert perfect == pytest.approx(floor, rel=0.02, abs=1e-4)


def test_labels_of_pixels_and_labels_to_ignore() -> None:
    outputs, labels = torch.randn(2, K, 3, 3), torch.full((2, 3, 3), 1)
    labels[0, 0] = -100
    assert reference_losses(F.cross_entropy, outputs, labels) == pytest.approx((math.log(K), 0))


def test_what_has_no_reference() -> None:
    def refuses(outputs, labels):
        raise RuntimeError("not for you")

    def broken(outputs, labels):
        return outputs.sum() * math.nan

    assert reference_losses(refuses, LOGITS, LABELS) == (None, None)
    assert reference_losses(broken, LOGITS, LABELS) == (None, None)
    assert reference_losses(F.cross_entropy, {"logits": LOGITS}, LABELS) == (None, None)
    assert reference_losses(F.cross_entropy, LOGITS, LABELS[:5]) == (None, None)
    assert reference_losses(lambda out, y: torch.tensor(3.0), LOGITS, LABELS) == (3.0, None)


def test_nothing_is_disturbed() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(K)
            self.past: list[float] = []

        def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
            noise = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
            self.past.append(noise)
            return F.cross_entropy(self.norm(outputs), labels)

    loss_fn = Counting()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    chance, _ = reference_losses(loss_fn, LOGITS.clone().requires_grad_(), LABELS)
    assert chance == pytest.approx(math.log(K))
    assert loss_fn.past == []
    assert loss_fn.norm.num_batches_tracked == 0
    assert loss_fn.norm.weight.grad is None
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
