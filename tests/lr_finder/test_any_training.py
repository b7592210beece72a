"""The range test of any loss, parameter groups, batches and surroundings."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

import resight
from resight.errors import UsageError
from resight.lr_finder.range_test import lr_range_test

K = 3
LABELS = torch.arange(256) % K


def pictures() -> Tensor:
    """Images (256, 3, 8, 8) with their own channel lit."""
    images = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    images[torch.arange(256), LABELS] += 1
    return images


PAIRS = list(zip(pictures().split(32), LABELS.split(32), strict=True))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K)),
    )


def measure(loss_fn=F.cross_entropy, kind=SGD, **settings) -> resight.LRCurve:
    model = network()
    optimizer = kind(model.parameters(), lr=0.1, **({"momentum": 0.9} if kind is SGD else {}))
    return lr_range_test(model, optimizer, loss_fn, settings.pop("batches", PAIRS), **settings)


# --- losses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("added", [-2.0, 0.5, 10.0])
def test_a_part_of_the_loss_that_never_moves_changes_nothing(added: float) -> None:
    plain = measure()
    moved = measure(lambda out, y: F.cross_entropy(out, y) + added)
    assert moved.peak == pytest.approx(plain.peak)
    assert moved.verdict == plain.verdict
    assert moved.losses == pytest.approx(plain.losses + added, abs=1e-5)
    assert moved.floor == pytest.approx(added)


def test_a_factor_on_the_loss_is_a_factor_on_the_rate_of_sgd_and_none_on_adams() -> None:
    tenth = measure(lambda out, y: F.cross_entropy(out, y) / 8, start=8e-4, end=80)
    assert tenth.peak == pytest.approx(8 * measure().peak)
    adam = {"kind": Adam, "end": 0.3}
    scaled = measure(lambda out, y: F.cross_entropy(out, y) / 8, **adam)
    assert scaled.peak == pytest.approx(measure(**adam).peak, rel=0.3)


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda out, y: F.cross_entropy(out, F.one_hot(y, K).float()),
        lambda out, y: F.nll_loss(out.log_softmax(1), y) + 0.01 * out.abs().mean(),
    ],
)
def test_kindred_losses_have_nearly_the_same_peak(loss_fn) -> None:
    curve = measure(loss_fn)
    assert curve.verdict.ok, curve.verdict
    assert 0.5 < curve.peak / measure().peak < 2


def test_a_loss_far_above_its_floor_still_ends_the_test() -> None:
    """Where 10 of the loss never moves, the rest is 4 times its best long before the whole is."""

    noise = [(torch.randn(32, 192), labels) for _, labels in PAIRS]  # no pattern to find

    def stop(loss_fn) -> tuple[int, str | None]:
        torch.manual_seed(0)
        model = nn.Linear(192, K)
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        curve = lr_range_test(model, optimizer, loss_fn, noise, end=1e4)
        return len(curve.lrs), curve.stopped

    steps, reason = stop(F.cross_entropy)
    moved, moved_reason = stop(lambda out, y: F.cross_entropy(out, y) + 10)
    assert moved == steps < 60
    assert "over 4 times its best, after step" in reason
    assert "over 4 times as far above 10 as its best, after step" in moved_reason


# --- parameter groups -----------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_peak_is_the_rate_of_the_fastest_group_as_in_a_schedule(order) -> None:
    model = network()
    groups = [
        {"params": model[:5].parameters(), "lr": 0.01},
        {"params": model[5].parameters(), "lr": 0.1},
    ]
    optimizer = SGD([groups[i] for i in order], lr=0.1, momentum=0.9)
    visited = []
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: visited.append([group["lr"] for group in opt.param_groups])
    )
    curve = lr_range_test(model, optimizer, F.cross_entropy, PAIRS)
    assert [max(rates) for rates in visited] == pytest.approx(curve.lrs.tolist())
    assert [max(rates) / min(rates) for rates in visited] == pytest.approx([10] * len(visited))
    recipe = resight.with_overrides(
        resight.load_recipe("base"), ["schedule.name=constant", f"optimizer.lr={curve.peak}"]
    )
    resight.ScheduleLR(optimizer, resight.schedule(recipe, steps_per_epoch=8))
    rates = [group["lr"] for group in optimizer.param_groups]
    assert max(rates) == pytest.approx(curve.peak)
    assert max(rates) / min(rates) == pytest.approx(10)


def test_a_schedule_goes_on_after_a_range_test() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = resight.schedule("resnet9", steps_per_epoch=8)
    scheduler = resight.ScheduleLR(optimizer, schedule)
    for _ in range(2):
        lr_range_test(model, optimizer, F.cross_entropy, PAIRS, steps=5)
        assert optimizer.param_groups[0]["lr"] == schedule.at(scheduler.last_epoch).lr
        optimizer.step()
        scheduler.step()


# --- batches --------------------------------------------------------------------------------


class Two(nn.Module):
    """Adds what two layers make of two inputs, which `read` takes out of a batch."""

    def __init__(self, read) -> None:
        super().__init__()
        self.read = read
        self.a, self.b = nn.Linear(4, K), nn.Linear(2, K)

    def forward(self, inputs):
        x, extra = self.read(inputs)
        return self.a(x) + self.b(extra)


Inputs = namedtuple("Inputs", "x extra")
X, EXTRA, Y = torch.randn(30, 4), torch.randn(30, 2), torch.arange(30) % K
BY_NAME = ({"x": X, "extra": EXTRA, "id": ["a"] * 30}, Y)
NESTED = {
    "tuple": (((X, EXTRA), Y), tuple, F.cross_entropy),
    "named tuple": ((Inputs(X, EXTRA), Y), lambda i: (i.x, i.extra), F.cross_entropy),
    "dictionary": (BY_NAME, lambda i: (i["x"], i["extra"]), F.cross_entropy),
    "targets": (((X, EXTRA), {"y": Y}), tuple, lambda out, y: F.cross_entropy(out, y["y"])),
    "numpy": (((X.numpy(), EXTRA.numpy()), Y.numpy()), tuple, F.cross_entropy),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_batches(name: str) -> None:
    batch, read, loss_fn = NESTED[name]

    def curve(batch, read, loss_fn):
        torch.manual_seed(0)
        model = Two(read)
        return lr_range_test(model, SGD(model.parameters(), lr=0.1), loss_fn, [batch], steps=12)

    expected = curve(((X, EXTRA), Y), tuple, F.cross_entropy)
    nested = curve(batch, read, loss_fn)
    assert nested.losses.tolist() == expected.losses.tolist()
    assert nested.images == 13 * 30


def test_outputs_that_are_no_tensor_are_judged_by_the_curve() -> None:
    model = network()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images):
            return SimpleNamespace(logits=self.model(images))

    curve = lr_range_test(
        Wrapped(),
        SGD(model.parameters(), lr=0.1, momentum=0.9),
        lambda out, y: F.cross_entropy(out.logits, y),
        PAIRS,
    )
    assert curve.chance is None
    assert curve.peak == pytest.approx(measure().peak, rel=0.3)


def test_a_last_batch_of_one_image_is_left_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.BatchNorm1d(8), nn.Linear(8, K))
    optimizer = SGD(model.parameters(), lr=0.1)
    data = TensorDataset(torch.randn(65, 3, 3, 3), torch.arange(65) % K)
    curve = lr_range_test(model, optimizer, F.cross_entropy, DataLoader(data, 16), steps=10)
    assert curve.images == 11 * 16
    single = [(torch.randn(1, 27), torch.tensor([1]))]
    plain = nn.Linear(27, K)
    one = lr_range_test(
        plain, SGD(plain.parameters(), lr=0.1), F.cross_entropy, single, steps=10, end=0.1
    )
    assert one.images == 11  # batches that are all of one image are meant


# --- surroundings and optimizers ------------------------------------------------------------


def test_inside_inference_mode() -> None:
    expected = measure(steps=10)
    with torch.inference_mode():
        copies = [(images.clone(), labels.clone()) for images, labels in PAIRS]
        model = network()
    assert copies[0][0].is_inference()
    with pytest.raises(UsageError, match="weights were made in inference mode"):
        lr_range_test(model, SGD(model.parameters(), lr=0.1), F.cross_entropy, PAIRS)
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.inference_mode():
        curve = lr_range_test(model, optimizer, F.cross_entropy, copies, steps=10)
    assert curve.losses.tolist() == expected.losses.tolist()


def test_an_optimizer_that_evaluates_the_loss_itself_is_refused() -> None:
    model = nn.Linear(4, K)
    optimizer = LBFGS(model.parameters())
    torch.optim.lr_scheduler.StepLR(optimizer, 3)  # which wraps its step
    with pytest.raises(UsageError, match=r"LBFGS\.step\(\) needs a closure"):
        lr_range_test(model, optimizer, F.cross_entropy, [(X, Y)])


def test_a_loss_without_a_gradient_is_refused() -> None:
    model = nn.Linear(4, K).requires_grad_(False)
    spare = nn.Parameter(torch.zeros(1))
    with pytest.raises(UsageError, match="the loss has no gradient"):
        lr_range_test(model, SGD([spare], lr=0.1), F.cross_entropy, [(X, Y)])


# --- answers at an edge ---------------------------------------------------------------------


def test_a_fall_that_is_under_way_at_the_first_rate_is_a_reason() -> None:
    curve = measure(kind=Adam, start=0.03, end=10)
    reasons = " ".join(curve.verdict.reasons)
    assert "the loss already falls at the first rate, 0.03" in reasons
    assert "start the range at 0.0003" in reasons
    assert "falls at the first rate" not in " ".join(measure(kind=Adam).verdict.reasons)


def test_logits_inside_a_result_and_batches_with_named_labels() -> None:
    class AsResult(nn.Sequential):
        def forward(self, images: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=super().forward(images))

    model = AsResult(*network())
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = [{"pixels": images.numpy(), "labels": labels.numpy()} for images, labels in PAIRS]
    curve = lr_range_test(model, optimizer, F.cross_entropy, batches)
    plain = measure()
    assert curve.losses.tolist() == plain.losses.tolist()
    assert curve.verdict == plain.verdict


def test_a_batch_without_tensors_is_refused() -> None:
    with pytest.raises(UsageError, match="no tensor or NumPy array"):
        measure(batches=[(["a.png"], [1])])
