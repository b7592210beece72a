"""Which precision "auto" means, and fp16: the loss is scaled, steps that overflow are left out.

A CPU computes fp16 too, slowly, so what a GPU does with it is shown here on small networks.
"""

import io
import itertools

import pytest
import torch
from torch import nn

from resight.datasets import hold_out, statistics
from resight.recipe import SGD, Constant, Loss, Muon, OneCycle, Recipe, Training
from resight.training.loop import fit
from resight.training.precision import (
    autocast_to_predict,
    fastest_precision,
    scales_loss,
    supports_bf16,
)
from resight.training.predict import predict_split
from resight.training.state import TrainData, init_state

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
LARGEST = 2.0**26  # a scale that overflows fp16 in the first steps, and no more at half of them


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "float32")],
    ids=["H100", "A100", "T4", "V100", "GTX 1080"],
)
def test_auto_on_a_gpu(capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fastest_precision(GPU) == precision
    assert supports_bf16(GPU) == (precision == "bf16")
    assert scales_loss(Training(precision="auto"), GPU) == (precision == "fp16")
    assert scales_loss(Training(precision="fp16"), GPU)
    assert not scales_loss(Training(precision="bf16"), GPU)


@pytest.fixture(scope="module")
def data(tiny):
    """Batches of 20, 20, 20 and 13."""
    train, val = hold_out(tiny.train, 0.2, seed=0)
    return TrainData(train=train, val=val, stats=statistics(train), classes=tiny.classes)


class Net(nn.Module):
    def __init__(self, seed=5):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(seed)
        for weight in (self.conv.weight, self.fc.weight):
            nn.init.normal_(weight, std=0.3, generator=generator)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images):
        return self.fc(self.norm(self.conv(images)).relu().mean((2, 3)))


def recipe_of(precision, *, optimizer=None, l1=None, schedule=None, **training):
    return Recipe(
        training=Training(batch_size=20, precision=precision, **training),
        optimizer=optimizer or SGD(lr=0.1, momentum=0.9),
        schedule=schedule or Constant(epochs=3),
        loss=Loss(l1=l1),
        seed=1,
    )


def state_of(recipe, data, *, scale=2.0**16, interval=2000, seed=5):
    """A state in fp16 on the CPU, where a recipe may not ask for it."""
    state = init_state(as_float32(recipe), data, Net(seed))
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)
    return state


def as_float32(recipe):
    training = recipe.training.model_copy(update={"precision": "float32"})
    return recipe.model_copy(update={"training": training})


def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("optimizer", [SGD(lr=0.02, momentum=0.9), Muon(lr=0.02)])
def test_fp16_learns_as_float32_does(data, optimizer):
    recipe = recipe_of("fp16", optimizer=optimizer)
    rough, exact = state_of(recipe, data), init_state(as_float32(recipe), data, Net())
    list(fit(rough, recipe, data))
    list(fit(exact, as_float32(recipe), data))
    assert rough.scaler.get_scale() == 2.0**16  # no step was left out
    torch.testing.assert_close(rough.step_losses, exact.step_losses, rtol=0.02, atol=0.02)
    assert not torch.equal(rough.step_losses, exact.step_losses)


@pytest.mark.parametrize("l1", [None, 1e-5])
@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.9), Muon(lr=0.02)])
def test_a_step_that_overflows_is_left_out_but_counts_for_schedule_and_average(data, optimizer, l1):
    decay, schedule = 0.8, OneCycle(epochs=3, peak_epoch=1.0)
    recipe = recipe_of("fp16", optimizer=optimizer, l1=l1, schedule=schedule, ema_decay=decay)
    state = state_of(recipe, data, scale=LARGEST)
    average, left_out = weights_of(state.model), 0
    for step, _ in enumerate(itertools.islice(fit(state, recipe, data), 4)):
        if step == 0:
            start = average
        before, after = start, weights_of(state.model)
        left_out += torch.equal(before, after)
        assert after.isfinite().all()
        average = after if step == 0 else decay * average + (1 - decay) * after
        torch.testing.assert_close(weights_of(state.averaged), average)
        start = after
    assert left_out == 4
    assert state.scaler.get_scale() == LARGEST / 2**4
    list(fit(state, recipe, data))
    assert not torch.equal(weights_of(state.model), start)  # the scale has come down
    assert weights_of(state.model).isfinite().all()
    assert state.lrs == [state.schedule.at(step).lr for step in range(12)]


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_stopped_and_resumed_is_bit_for_bit_uninterrupted(data, stop):
    """Also where the scale goes down first, and then up every other step."""
    recipe = recipe_of("fp16", ema_decay=0.9, micro_batch=10)
    options = {"scale": 2.0**24, "interval": 2}
    whole = state_of(recipe, data, **options)
    list(fit(whole, recipe, data))
    first = state_of(recipe, data, **options)
    list(itertools.islice(fit(first, recipe, data), stop))
    torch.save(first.state_dict(), file := io.BytesIO())
    file.seek(0)
    second = state_of(recipe, data, seed=9)
    second.load_state_dict(torch.load(file, weights_only=True))
    list(fit(second, recipe, data))
    assert torch.equal(weights_of(second.model), weights_of(whole.model))
    assert torch.equal(weights_of(second.averaged), weights_of(whole.averaged))
    assert torch.equal(second.step_losses, whole.step_losses)
    assert second.scaler.state_dict() == whole.scaler.state_dict()
    assert whole.scaler.get_scale() != options["scale"]


def test_a_run_in_fp16_is_evaluated_on_a_cpu_in_float32(data):
    fp16, float32, bf16 = (
        predict_split(
            Net().eval(),
            data.train,
            data.stats,
            classes=data.classes,
            training=Training(precision=precision),
        ).logits
        for precision in ("fp16", "float32", "bf16")
    )
    assert (fp16 == float32).all()
    assert not (bf16 == float32).all()
    with autocast_to_predict(Training(precision="fp16"), CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
