"""The loop does what a plain one does, and a run that was stopped goes on as if it had not been."""

import copy
import io
import itertools
import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resight.datasets import hold_out, statistics
from resight.errors import Diverged, UsageError
from resight.events import EpochDone, StepDone
from resight.metrics.classification import accuracy, mean_loss
from resight.networks import build_model, prepare_model
from resight.optim import muon
from resight.recipe import (
    HSV,
    KINDS,
    SGD,
    Adam,
    AdamW,
    Augment,
    Constant,
    Cosine,
    Crop,
    CutMix,
    Cutout,
    Data,
    Loss,
    MixUp,
    MultiStep,
    Muon,
    OneCycle,
    Plateau,
    Progressive,
    Recipe,
    RMSprop,
    Swift,
    Training,
    Triangular,
)
from resight.records import EpochRow
from resight.training.batches import steps_per_epoch, train_batches
from resight.training.loop import _resize, best_epoch, fit
from resight.training.predict import predict_split
from resight.training.state import TrainData, init_state

AUGMENT = Augment(
    hsv=HSV(prob=0.5), crop=Crop(pad=2), flip="random", cutout=Cutout(min_px=3, max_px=6, prob=0.5)
)
MIXED = AUGMENT.model_copy(update={"mixup": MixUp(alpha=1.0), "cutmix": CutMix()})
PLAIN_SGD = SGD(lr=0.05, momentum=0.0, weight_decay=0.0)
TIMINGS = ("train_secs", "images_per_sec")


class Pixels(nn.Module):
    """Dropout on the pixels, then one linear layer."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(3 * 16 * 16, 3)
        nn.init.normal_(self.fc.weight, std=0.02, generator=torch.Generator().manual_seed(4))
        nn.init.zeros_(self.fc.bias)

    def forward(self, images):
        return self.fc(self.drop(images.flatten(1)))


class Net(nn.Module):
    """Two convolutions, with batch norm or without."""

    def __init__(self, *, norm=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2)
        self.fc = nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(5)
        for layer in (self.conv1, self.conv2, self.fc):
            nn.init.normal_(layer.weight, std=0.2, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, images):
        x = self.norm(self.conv1(images)).relu()
        return self.fc(self.conv2(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def data(tiny):
    """73 images to train on: batches of 20, 20, 20 and 13; and 18 to validate."""
    train, val = hold_out(tiny.train, 0.2, seed=0)
    return TrainData(train=train, val=val, stats=statistics(train), classes=tiny.classes)


def recipe_of(**sections):
    """Three epochs at a constant rate, plain SGD, no augmentation, but for `sections`."""
    training = {"batch_size": 20, **sections.pop("training", {})}
    usual = {"optimizer": PLAIN_SGD, "schedule": Constant(epochs=3), "seed": 1}
    return Recipe(training=Training(**training), **{**usual, **sections})


def finish(recipe, data, model):
    state = init_state(recipe, data, model)
    return state, list(fit(state, recipe, data))


def steps_of(events):
    return [event for event in events if isinstance(event, StepDone)]


def losses_of(events):
    return torch.stack([event.loss for event in steps_of(events)])


def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def batches_of(recipe, data, epoch):
    return train_batches(
        data.train,
        recipe.augment,
        data.stats,
        batch_size=recipe.training.batch_size,
        seed=recipe.seed,
        epoch=epoch,
    )


def row_of(epoch, *, val_loss, val_accuracy):
    return EpochRow(
        epoch=epoch,
        step=epoch,
        lr=0.1,
        train_loss=1.0,
        train_accuracy=0.5,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        train_secs=1.0,
        images_per_sec=1.0,
    )


# --- the step -------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_loop_is_the_plain_pytorch_loop_bit_for_bit(data, channels_last):
    recipe = recipe_of(
        augment=AUGMENT,
        schedule=MultiStep(epochs=3, milestones=(1, 2), factor=0.5),
        optimizer=SGD(lr=0.1, nesterov=True, weight_decay=0.01, decay_norm_bias=True),
        training={"channels_last": channels_last},
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    twin = Net().to(memory_format=layout)
    optimizer = torch.optim.SGD(
        twin.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    )
    losses = []
    for epoch, lr in enumerate([0.1, 0.05, 0.025]):
        optimizer.param_groups[0]["lr"] = lr
        for images, labels in batches_of(recipe, data, epoch):
            loss = F.cross_entropy(twin(images.contiguous(memory_format=layout)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    state, events = finish(recipe, data, Net())

    for name, value in twin.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name
    # Their sums over the batch may round differently; what is learned from may not.
    assert losses_of(events).tolist() == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("augment", [AUGMENT, MIXED])
@pytest.mark.parametrize("micro_batch", [1, 7])
def test_micro_batches_add_up_to_the_whole_batch(data, micro_batch, augment):
    loss = Loss(label_smoothing=0.1, l1=1e-3, class_weights="balanced", focal_gamma=0.5)
    sections = {"augment": augment, "loss": loss}
    whole, events = finish(recipe_of(**sections), data, Net(norm=False))
    parts, part_events = finish(
        recipe_of(**sections, training={"micro_batch": micro_batch}), data, Net(norm=False)
    )
    moved = weights_of(whole.model) - weights_of(Net(norm=False))
    assert moved.norm() > 0.1
    torch.testing.assert_close(
        weights_of(parts.model), weights_of(whole.model), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(losses_of(part_events), losses_of(events), rtol=1e-5, atol=1e-6)
    assert [e.row.train_accuracy for e in part_events if isinstance(e, EpochDone)] == [
        e.row.train_accuracy for e in events if isinstance(e, EpochDone)
    ]


def test_mixed_labels_are_learned_from_in_their_shares(data):
    """The plain loop with the share of each class as the target of torch's cross entropy."""
    recipe = recipe_of(augment=MIXED, loss=Loss(label_smoothing=0.1))
    twin = Net()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    plain, right = [], []
    for epoch in range(3):
        for images, labels in batches_of(recipe, data, epoch):
            logits = twin(images.contiguous(memory_format=torch.channels_last))
            shares = labels.shares(3)
            optimizer.zero_grad()
            F.cross_entropy(logits, shares, label_smoothing=0.1).backward()
            optimizer.step()
            plain.append(F.cross_entropy(logits, shares).item())
            right.append(int((logits.argmax(1) == shares.argmax(1)).sum()))

    state, events = finish(recipe, data, Net())

    torch.testing.assert_close(weights_of(state.model), weights_of(twin), rtol=1e-4, atol=1e-6)
    assert losses_of(events).tolist() == pytest.approx(plain, rel=1e-5)
    assert [int(event.correct) for event in steps_of(events)] == right


def test_micro_batches_are_even(data):
    sizes = []

    class Sizes(Pixels):
        def forward(self, images):
            if self.training:
                sizes.append(len(images))
            return super().forward(images)

    finish(recipe_of(schedule=Constant(epochs=1), training={"micro_batch": 6}), data, Sizes())
    assert sizes == 3 * [5, 5, 5, 5] + [5, 4, 4]  # batches of 20 and 13, at most 6 at a time


def test_class_weights_are_learned_from_and_not_reported(data):
    """The plain loop with torch's weights, on data of which a class has a quarter of the images."""
    rows = torch.cat([(data.train.labels != 2).nonzero(), (data.train.labels == 2).nonzero()[:6]])
    fewer = replace(data, train=data.train.select(rows.flatten()))
    recipe = recipe_of(loss=Loss(class_weights="balanced"))
    labels = fewer.train.labels
    weights = len(labels) / (3 * torch.bincount(labels))
    twin = Net()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    plain = []
    for epoch in range(3):
        for images, labels in batches_of(recipe, fewer, epoch):
            logits = twin(images.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            total = F.cross_entropy(logits, labels, weights, reduction="sum")
            (total / len(labels)).backward()
            optimizer.step()
            plain.append(F.cross_entropy(logits, labels).item())

    state, events = finish(recipe, fewer, Net())

    assert float(weights[2]) > 2
    torch.testing.assert_close(weights_of(state.model), weights_of(twin), rtol=1e-4, atol=1e-6)
    assert losses_of(events).tolist() == pytest.approx(plain, rel=1e-5)


def test_the_gradient_is_that_of_the_smoothed_loss_and_the_report_of_the_plain_one(data):
    recipe = recipe_of(loss=Loss(label_smoothing=0.2))
    twin = Net()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    plain, rows = [], []
    for epoch in range(3):
        sums = right = 0.0
        for images, labels in batches_of(recipe, data, epoch):
            logits = twin(images.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels, label_smoothing=0.2).backward()
            optimizer.step()
            plain.append(F.cross_entropy(logits, labels).item())
            sums += F.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(1) == labels).sum().item()
        rows.append((sums / 73, right / 73))

    state, events = finish(recipe, data, Net())

    torch.testing.assert_close(weights_of(state.model), weights_of(twin), rtol=1e-4, atol=1e-6)
    assert losses_of(events).tolist() == pytest.approx(plain, rel=1e-5)
    assert [row.train_loss for row in state.rows] == pytest.approx([r[0] for r in rows], rel=1e-5)
    assert [row.train_accuracy for row in state.rows] == [r[1] for r in rows]


@pytest.mark.parametrize("micro_batch", [None, 8])
def test_l1_and_l2_pull_on_weights_once_a_step(data, micro_batch):
    """A network whose output is not touched by its weights moves by decay alone."""

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            with torch.no_grad():
                self.fc.weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
                self.fc.bias.fill_(3.0)

        def forward(self, images):
            return images.new_zeros(len(images), 3) + 0 * self.fc(images[:, 0, 0, :2]).sum()

    recipe = recipe_of(
        schedule=Constant(epochs=1),
        optimizer=SGD(lr=0.1, momentum=0.0, weight_decay=0.5),
        loss=Loss(l1=0.01),
        training={"batch_size": 73, "micro_batch": micro_batch},
    )
    state, _ = finish(recipe, data, Idle())
    expected = torch.tensor([[1 - 0.05 - 0.001, -2 + 0.1 + 0.001], [0.5 - 0.025 - 0.001, 0.0]])
    torch.testing.assert_close(state.model.fc.weight.detach(), expected)
    assert state.model.fc.bias.tolist() == [3.0, 3.0]


def test_gradients_that_were_there_before_are_not_learned_from(data):
    untouched, _ = finish(recipe_of(), data, Pixels())
    used = Pixels()
    used(torch.ones(4, 3, 16, 16)).sum().backward()
    state, _ = finish(recipe_of(), data, used)
    assert torch.equal(weights_of(state.model), weights_of(untouched.model))


def test_every_step_is_trained_in_training_mode_whatever_the_driver_did(data):
    recipe = recipe_of(schedule=Constant(epochs=2))
    expected, _ = finish(recipe, data, Net())
    state = init_state(recipe, data, Net())
    for _ in fit(state, recipe, data):
        state.model.eval()
    assert torch.equal(weights_of(state.model), weights_of(expected.model))
    assert torch.equal(state.model.norm.running_mean, expected.model.norm.running_mean)


def test_events_count_steps_images_and_rates(data):
    recipe = recipe_of(schedule=OneCycle(epochs=2, momentum_low=0.8, momentum_high=0.9))
    state, events = finish(recipe, data, Pixels())
    kinds = [type(event) for event in events]
    assert kinds == 2 * [StepDone, StepDone, StepDone, StepDone, EpochDone]
    steps = steps_of(events)
    assert [(s.epoch, s.step, s.images) for s in steps] == [
        (1, 1, 20), (1, 2, 20), (1, 3, 20), (1, 4, 13),
        (2, 5, 20), (2, 6, 20), (2, 7, 20), (2, 8, 13),
    ]  # fmt: skip
    assert {(s.steps_per_epoch, s.total_steps) for s in steps} == {(4, 8)}
    history = state.history
    rates = [state.schedule.at(step) for step in range(8)]
    assert history.lrs.tolist() == [s.lr for s in steps] == [rate.lr for rate in rates]
    assert history.momenta.tolist() == [rate.momentum for rate in rates]
    assert history.losses.tolist() == losses_of(events).double().tolist()
    assert history.epochs == tuple(e.row for e in events if isinstance(e, EpochDone))
    assert [(row.epoch, row.step, row.lr) for row in history.epochs] == [
        (1, 4, steps[3].lr),
        (2, 8, steps[7].lr),
    ]
    assert list(fit(state, recipe, data)) == []  # it is finished


def test_training_time_adds_up_over_a_stop(data):
    recipe = recipe_of(schedule=Constant(epochs=1))
    state = init_state(recipe, data, Pixels())
    next(fit(state, recipe, data))
    state.epoch_secs = 1000.0
    row = list(fit(state, recipe, data))[-1].row
    assert 1000 < row.train_secs < 1100
    assert row.images_per_sec == pytest.approx(73 / row.train_secs)
    assert state.epoch_secs == 0


# --- precision, layout, devices ---------------------------------------------------------------


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights(data):
    observed = set()

    class Recorder(Net):
        def forward(self, images):
            logits = super().forward(images)
            observed.add((self.training, logits.dtype))
            return logits

    state, events = finish(recipe_of(training={"precision": "bf16"}), data, Recorder())
    exact, exact_events = finish(recipe_of(), data, Net())
    # In float32 is what the start asks one image for: the shape of its logits.
    assert observed == {(True, torch.bfloat16), (False, torch.bfloat16), (False, torch.float32)}
    assert weights_of(state.model).dtype == torch.float32
    torch.testing.assert_close(losses_of(events), losses_of(exact_events), rtol=0.02, atol=0.02)
    assert not torch.equal(weights_of(state.model), weights_of(exact.model))


def test_muon_steps_in_the_precision_of_the_recipe(data):
    steps = []

    class CountingMuon(muon.MuonOptimizer):
        def step(self):
            steps.append(torch.is_autocast_enabled("cpu"))
            super().step()

    for precision in ("float32", "bf16"):
        recipe = recipe_of(schedule=Constant(epochs=1), training={"precision": precision})
        state = init_state(recipe, data, Net())
        state.optimizer = CountingMuon(
            [{"params": list(state.model.parameters()), "lr": 0.1}], momentum=0.5
        )
        next(fit(state, recipe, data))
    assert steps == [False, True]


def test_fp16_needs_a_gpu(data):
    with pytest.raises(UsageError, match=r'precision = "fp16" needs a GPU.*bf16 or float32'):
        init_state(recipe_of(training={"precision": "fp16"}), data, Pixels())


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_and_weights_have_the_layout_of_the_recipe(data, channels_last):
    observed = set()

    class Recorder(Net):
        def forward(self, images):
            for tensor in (images, self.conv2.weight):
                observed.add(tensor.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    finish(recipe_of(training={"channels_last": channels_last}), data, Recorder())
    assert observed == {channels_last}


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_in_the_same_weights(data, monkeypatch):
    # All of torch.compile but the machine code, which would need a C++ compiler.
    sides = set()

    def backend(graph, inputs):
        sides.update(x.shape[-1] for x in inputs if x.ndim == 4)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    sections = {"training": {"micro_batch": 8, "progressive": Progressive(px=12, share=0.5)}}
    plain, plain_events = finish(recipe_of(**sections), data, Net())
    sections["training"]["compile"] = True
    compiled, events = finish(recipe_of(**sections), data, Net())

    torch.testing.assert_close(losses_of(events), losses_of(plain_events), rtol=1e-4, atol=1e-5)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(
            compiled.model.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name
        )
    assert sides == {3, 12, 16}  # of kernels, and of images in either half


def test_any_module_learns(data):
    recipe = recipe_of(
        schedule=Constant(epochs=4), optimizer=Adam(lr=2e-3), training={"batch_size": 10}
    )
    state, _ = finish(recipe, data, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)))
    assert state.rows[-1].val_accuracy > 0.9
    assert state.rows[-1].train_loss < state.rows[0].train_loss / 2


@pytest.mark.parametrize(
    ("outputs", "shape"),
    [
        (nn.Linear(768, 5), r"\(1, 5\)"),
        (nn.Linear(768, 2), r"\(1, 2\)"),
        (nn.Sequential(nn.Linear(768, 3), nn.Unflatten(1, (3, 1))), r"\(1, 3, 1\)"),
    ],
)
def test_outputs_that_are_not_one_a_class_are_refused_at_once(data, outputs, shape):
    model = nn.Sequential(nn.Flatten(), outputs)
    with pytest.raises(UsageError, match=rf"makes {shape} of one image, .* 3 classes; .* \(1, 3\)"):
        init_state(recipe_of(), data, model)
    assert model.training


def test_a_softmax_before_the_loss_is_refused_and_a_log_softmax_changes_nothing(data):
    layers = (nn.Flatten(), nn.Linear(768, 3))
    with pytest.raises(UsageError, match=r"3 outputs .* sum to 1, .* leave out the softmax"):
        init_state(recipe_of(), data, nn.Sequential(*layers, nn.Softmax(dim=1)))
    ends = []
    for last in (nn.Identity(), nn.LogSoftmax(dim=1)):
        state, _ = finish(recipe_of(), data, nn.Sequential(*copy.deepcopy(layers), last))
        ends.append(state.rows[-1].train_loss)
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def test_outputs_that_are_no_tensor_are_refused_at_once(data):
    class Named(Pixels):
        def forward(self, images):
            return {"logits": super().forward(images)}

    with pytest.raises(UsageError, match="makes dict of one image"):
        init_state(recipe_of(), data, Named())


# --- random numbers ---------------------------------------------------------------------------


class Masked(Pixels):
    """Keeps the masks of its dropout."""

    def __init__(self):
        super().__init__()
        self.mask = nn.Dropout(0.5)
        self.masks, self.evaluated = [], []

    def forward(self, images):
        ones = self.mask(torch.ones(16))
        (self.masks if self.training else self.evaluated).append(ones)
        return super().forward(images) * ones.mean()


def test_dropout_depends_on_seed_and_step_alone(data):
    plain = Masked()
    finish(recipe_of(), data, plain)
    masks = torch.stack(plain.masks)  # (12, 16)
    assert set(masks.unique().tolist()) == {0.0, 2.0}
    assert len(masks.unique(dim=0)) == 12
    assert all((mask == 1).all() for mask in plain.evaluated)

    torch.manual_seed(99)
    other = Masked()
    recipe = recipe_of(optimizer=Adam(lr=0.01), augment=AUGMENT)  # another path of the weights
    for _ in fit(init_state(recipe, data, other), recipe, data):
        torch.rand(3)
    assert torch.equal(torch.stack(other.masks), masks)

    reseeded = Masked()
    finish(recipe_of(seed=2), data, reseeded)
    assert not any(torch.equal(a, b) for a, b in zip(reseeded.masks, plain.masks, strict=True))


def test_micro_batches_of_a_step_have_dropout_of_their_own(data):
    model = Masked()
    recipe = recipe_of(schedule=Constant(epochs=1), training={"micro_batch": 5})
    finish(recipe, data, model)
    assert len(torch.stack(model.masks).unique(dim=0)) == 3 * 4 + 3


def test_the_global_generator_is_as_it_was_at_every_event(data):
    recipe = recipe_of(augment=AUGMENT, training={"ema_decay": 0.9})
    model = Pixels(dropout=0.5)
    torch.manual_seed(7)
    expected = torch.rand(15).tolist()
    torch.manual_seed(7)
    state = init_state(recipe, data, model)
    drawn = [torch.rand(1).item() for _ in fit(state, recipe, data)]
    assert drawn == expected


# --- batch norm -------------------------------------------------------------------------------


class Normed(nn.Module):
    """Batch norm of the pixels; its forward call number `fails_at` in training fails."""

    fails_at = None

    def __init__(self, momentum):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=momentum)
        self.fc = nn.Linear(3, 3)
        self.calls, self.momenta = 0, []

    def forward(self, images):
        if self.training:
            self.calls += 1
            self.momenta.append(self.norm.momentum)
            if self.calls == self.fails_at:
                raise RuntimeError("out of memory")
        return self.fc(self.norm(images).mean((2, 3)))


@pytest.mark.parametrize("momentum", [0.1, 0.4])
@pytest.mark.parametrize("micro_batch", [None, 7, 3])
def test_running_statistics_reach_back_as_far_with_micro_batches(data, momentum, micro_batch):
    """With all images alike every micro-batch has the same mean, and t steps give it in closed
    form, also where the last batch has fewer parts."""
    one = data.train.select(torch.zeros(73, dtype=torch.int64))
    repeated = TrainData(train=one, val=data.val, stats=data.stats, classes=data.classes)
    recipe = recipe_of(training={"micro_batch": micro_batch})
    state, _ = finish(recipe, repeated, Normed(momentum))
    images, _ = next(batches_of(recipe, repeated, epoch=0))
    expected = images.mean((0, 2, 3)) * (1 - (1 - momentum) ** 12)
    torch.testing.assert_close(state.model.norm.running_mean, expected, rtol=1e-4, atol=1e-6)


def test_the_batch_norm_momentum_is_given_back_before_every_event(data):
    recipe = recipe_of(training={"micro_batch": 5, "ema_decay": 0.9})
    state = init_state(recipe, data, Normed(0.3))
    events = fit(state, recipe, data)
    for event in itertools.islice(events, 7):
        assert state.model.norm.momentum == 0.3, event
    assert state.averaged.norm.momentum == 0.3
    four, three = 1 - 0.7 ** (1 / 4), 1 - 0.7 ** (1 / 3)
    assert state.model.momenta == 3 * 4 * [four] + 3 * [three] + 2 * 4 * [four]


@pytest.mark.parametrize(
    ("momentum", "micro_batch"),
    [(0.1, None), (None, 5)],  # 1 - (1 - 0.1) is not 0.1 in floating point; None: the plain mean
)
def test_whole_batches_and_plain_means_keep_their_momentum(data, momentum, micro_batch):
    recipe = recipe_of(training={"micro_batch": micro_batch})
    state, _ = finish(recipe, data, Normed(momentum))
    assert set(state.model.momenta) == {momentum}
    assert state.model.norm.momentum == momentum


def test_what_a_step_borrowed_is_given_back_after_an_exception(data):
    recipe = recipe_of(training={"micro_batch": 5})
    twin = Normed(0.3)
    state = init_state(recipe, data, copy.deepcopy(twin))
    state.model.fails_at = 6
    before = torch.get_rng_state()
    events = fit(state, recipe, data)
    assert next(events).step == 1
    with pytest.raises(RuntimeError, match="out of memory"):
        next(events)
    assert state.model.norm.momentum == 0.3
    assert torch.equal(torch.get_rng_state(), before)
    assert state.step == 1
    next(fit(state, recipe, data))  # without the gradients that the broken step left behind
    list(itertools.islice(fit(init_state(recipe, data, twin), recipe, data), 2))
    assert torch.equal(weights_of(state.model), weights_of(twin))


# --- weight averaging -------------------------------------------------------------------------


def test_the_average_follows_its_formula_and_is_what_validation_judges(data):
    recipe = recipe_of(training={"ema_decay": 0.8}, optimizer=SGD(lr=0.1))
    state = init_state(recipe, data, Net())
    average = None
    for event in fit(state, recipe, data):
        now = copy.deepcopy(state.model.state_dict())
        if isinstance(event, StepDone):  # a_1 = w_1, a_t = 0.8 a_{t-1} + 0.2 w_t
            floats = {k: v.double() for k, v in now.items() if v.is_floating_point()}
            average = {
                k: v if average is None else 0.8 * average[k] + 0.2 * v for k, v in floats.items()
            }
            averaged = state.averaged.state_dict()
            for name, value in average.items():
                torch.testing.assert_close(averaged[name].double(), value, rtol=1e-5, atol=1e-6)
            for name in now.keys() - average.keys():  # counts have no mean
                assert torch.equal(averaged[name], now[name])
        else:
            judged = predict_split(state.averaged, data.val, data.stats, classes=data.classes)
            raw = predict_split(state.model, data.val, data.stats, classes=data.classes)
            assert event.row.val_loss == mean_loss(judged) != mean_loss(raw)
            assert event.row.val_accuracy == accuracy(judged).value
    assert state.evaluated is state.averaged


def test_averaging_does_not_change_what_is_learned(data):
    usual, _ = finish(recipe_of(), data, Net())
    averaged, _ = finish(recipe_of(training={"ema_decay": 0.9}), data, Net())
    assert torch.equal(weights_of(usual.model), weights_of(averaged.model))
    assert usual.evaluated is usual.model


# --- exact resume -----------------------------------------------------------------------------

CYCLE = {"epochs": 3, "momentum_low": 0.8, "momentum_high": 0.95}
SCHEDULES = {
    "one_cycle": OneCycle(peak_epoch=1.2, **CYCLE),
    "triangular": Triangular(half_cycle_epochs=0.6, **CYCLE),
    "triangular2": Triangular(name="triangular2", half_cycle_epochs=0.6, **CYCLE),
    "exp_range": Triangular(name="exp_range", half_cycle_epochs=0.6, gamma=0.9, **CYCLE),
    # No gain is large enough, so that the rate drops after every epoch.
    "plateau": Plateau(epochs=3, patience=0, factor=0.5, threshold=10),
    "cosine": Cosine(epochs=3, warmup_epochs=0.6),
    "multistep": MultiStep(epochs=3, milestones=(0.6, 2)),
    "constant": Constant(epochs=3),
}
OPTIMIZERS = {
    "sgd": SGD(lr=0.1, nesterov=True, norm_bias_lr_scale=8.0),
    "adam": Adam(lr=0.01, weight_decay=1e-3),
    "adamw": AdamW(lr=0.01),
    "rmsprop": RMSprop(lr=2e-3, momentum=0.5),
    "muon": Muon(lr=0.02, norm_bias_lr_scale=8.0),
}
EVENTS = 3 * (4 + 1)  # steps, and the end, of each epoch


def test_every_schedule_and_optimizer_is_here():
    assert SCHEDULES.keys() == KINDS["schedule"].keys()
    assert OPTIMIZERS.keys() == KINDS["optimizer"].keys()


def full_recipe(schedule, optimizer):
    """Everything that could keep a state of its own is on."""
    return recipe_of(
        augment=MIXED,
        data=Data(balance="balanced"),
        model=Swift(widths=(8, 8, 8), dropout=0.3),
        schedule=SCHEDULES[schedule],
        optimizer=OPTIMIZERS[optimizer],
        loss=Loss(label_smoothing=0.1, l1=1e-5),
        training={
            "micro_batch": 10,
            "ema_decay": 0.9,
            "freeze_epochs": 1,
            "progressive": Progressive(px=14, share=0.4),
        },
    )


def new_state(recipe, data, *, seed):
    model = build_model(recipe.model, in_channels=3, num_classes=3, image_size=16, seed=seed)
    prepare_model(model, torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    return init_state(recipe, data, model)


def run_with_stops(recipe, data, stops=()):
    """Train to the end; after that many events save, start with other weights, load and go on."""
    state = new_state(recipe, data, seed=3)
    losses, done = [], 0
    for number, stop in enumerate((*stops, EVENTS)):
        events = itertools.islice(fit(state, recipe, data), stop - done)
        losses.extend(event.loss for event in steps_of(events))
        if stop < EVENTS:
            file = io.BytesIO()
            torch.save(state.state_dict(), file)
            file.seek(0)
            state = new_state(recipe, data, seed=100 + number)
            state.load_state_dict(torch.load(file, weights_only=True))
            torch.manual_seed(number)
        done = stop
    assert len(state.rows) == 3
    return {"losses": losses, **state.state_dict()}


def differences(a, b, path=""):
    """Paths at which two nested values are not equal bit for bit, timings left out."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        skipped = ("epoch_secs", *TIMINGS)
        return [d for k in a if k not in skipped for d in differences(a[k], b[k], f"{path}.{k}")]
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{path}.{i}")]
    return [] if a == b else [path]


# A schedule acts on an optimizer by its rate and momentum alone, so not every pair is needed: each
# schedule once, and each optimizer once, Muon also with a cycled momentum.
PAIRS = [*zip(SCHEDULES, itertools.cycle(OPTIMIZERS), strict=False), ("one_cycle", "muon")]


@pytest.mark.parametrize(("schedule", "optimizer"), PAIRS)
def test_stopped_and_resumed_is_bit_for_bit_uninterrupted(data, schedule, optimizer):
    recipe = full_recipe(schedule, optimizer)
    uninterrupted = run_with_stops(recipe, data)
    assert uninterrupted["step"] == 12
    stops = sorted(random.Random(f"{schedule} {optimizer}").sample(range(EVENTS), 3))
    resumed = run_with_stops(recipe, data, stops)
    assert differences(uninterrupted, resumed) == [], f"stopped after {stops} events"


@pytest.mark.slow
def test_a_run_may_stop_anywhere(data):
    """Before the first step, within an epoch, between its last step and its end, after its end."""
    recipe = full_recipe("plateau", "adam")
    uninterrupted = run_with_stops(recipe, data)
    for stop in range(EVENTS):
        assert differences(uninterrupted, run_with_stops(recipe, data, [stop])) == [], stop
    everywhere = run_with_stops(recipe, data, range(EVENTS))
    assert differences(uninterrupted, everywhere) == []


def test_the_seed_decides_the_run(data):
    recipe = full_recipe("cosine", "sgd")
    other = run_with_stops(recipe.model_copy(update={"seed": 2}), data)
    assert differences(run_with_stops(recipe, data), other)


# --- divergence -------------------------------------------------------------------------------


class Breaking(Pixels):
    """Its output in training is multiplied by `factor` at one step."""

    def __init__(self, step, factor):
        super().__init__()
        self.step, self.factor, self.calls = step, factor, 0

    def forward(self, images):
        self.calls += self.training
        broken = self.training and self.calls == self.step
        return super().forward(images) * (self.factor if broken else 1.0)


@pytest.mark.parametrize(
    ("factor", "loss"), [(math.nan, "nan"), (math.inf, "nan"), (-1e6, r"\d[\d.e+]*")]
)
def test_a_broken_loss_names_step_epoch_and_rate(data, factor, loss):
    recipe = recipe_of()
    events = fit(init_state(recipe, data, Breaking(6, factor)), recipe, data)
    observed = []
    fault = rf"^the loss became {loss} at step 6 \(epoch 2\) with lr 0.05; lower optimizer.lr"
    with pytest.raises(Diverged, match=fault):
        observed.extend(events)
    assert [type(event) for event in observed] == 4 * [StepDone] + [EpochDone, StepDone]


def test_a_bad_batch_is_not_an_explosion(data):
    # Guessing has a loss of log 3; the limit is 50 times that.
    state, events = finish(recipe_of(), data, Breaking(6, -3.0))
    assert 2 < losses_of(events).max() < 50 * math.log(3)
    assert len(state.rows) == 3


def test_a_rate_far_too_high_is_divergence(data):
    recipe = recipe_of(optimizer=SGD(lr=1e6), training={"micro_batch": 10})
    state = init_state(recipe, data, Net())
    before = torch.get_rng_state()
    with pytest.raises(Diverged, match=r"at step 2 \(epoch 1\) with lr 1e\+06"):
        list(fit(state, recipe, data))
    assert torch.equal(torch.get_rng_state(), before)
    assert state.model.norm.momentum == 0.1


class Poisoned(Pixels):
    """The loss is sound, its gradient is 0 times infinity: the weights break, unnoticed."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return super().forward(images) + 0 * self.scale.sqrt()


@pytest.mark.parametrize("validated", [True, False])
def test_weights_broken_by_the_last_step_of_an_epoch_are_not_kept(data, validated):
    splits = data if validated else TrainData(data.train, None, data.stats, data.classes)
    recipe = recipe_of(
        data=Data(val_fraction=0.1 if validated else None),
        training={"batch_size": 73, "select": "last"},
    )
    state = init_state(recipe, splits, Poisoned())
    events = fit(state, recipe, splits)
    assert math.isfinite(next(events).loss)
    with pytest.raises(Diverged, match=r"weights became NaN .* at step 1 \(epoch 1\) with lr 0.05"):
        next(events)
    assert state.rows == []


def test_outputs_that_overflow_in_validation_are_divergence(data):
    class Overflowing(Pixels):
        def forward(self, images):
            return super().forward(images) * (1.0 if self.training else math.inf)

    with pytest.raises(Diverged, match=r"the validation loss became NaN .* at step 4 \(epoch 1\)"):
        finish(recipe_of(), data, Overflowing())


# --- which epoch ------------------------------------------------------------------------------


def test_the_best_epoch():
    figures = [(0.9, 0.5), (0.7, 0.8), (0.6, 0.8), (0.6, 0.8), (0.5, 0.7), (0.5, 0.6)]
    rows = [
        row_of(epoch, val_loss=loss, val_accuracy=share)
        for epoch, (loss, share) in enumerate(figures, 1)
    ]
    assert best_epoch(rows, "val_accuracy") == 3  # as accurate as 2 with less loss; 4 is later
    assert best_epoch(rows, "val_loss") == 5  # 6 is later
    assert best_epoch(rows, "last") == 6
    assert best_epoch(rows[:1], "val_accuracy") == best_epoch(rows[:1], "val_loss") == 1


@pytest.mark.parametrize("select", ["val_accuracy", "val_loss", "last"])
def test_an_epoch_is_best_when_its_weights_are_the_ones_to_keep(data, select):
    recipe = recipe_of(
        optimizer=SGD(lr=0.3), schedule=Constant(epochs=6), training={"select": select}
    )
    state, events = finish(recipe, data, Net())
    best = [e.best for e in events if isinstance(e, EpochDone)]
    assert best == [best_epoch(state.rows[:n], select) == n for n in range(1, 7)]


def test_without_validation(data):
    splits = TrainData(data.train, None, data.stats, data.classes)
    recipe = recipe_of(data=Data(val_fraction=None), training={"select": "last"})
    state, events = finish(recipe, splits, Pixels())
    expected, _ = finish(recipe_of(), data, Pixels())
    assert [(row.val_loss, row.val_accuracy) for row in state.rows] == 3 * [(None, None)]
    assert [e.best for e in events if isinstance(e, EpochDone)] == [True, True, True]
    assert torch.equal(weights_of(state.model), weights_of(expected.model))


def test_a_plateau_of_the_validation_metric_lowers_the_rate(data):
    """The rate of each epoch is that of ReduceLROnPlateau shown the rows before it."""
    recipe = recipe_of(
        optimizer=SGD(lr=0.1),
        schedule=Plateau(epochs=8, metric="val_accuracy", patience=0, factor=0.5),
    )
    state, _ = finish(recipe, data, Net())
    oracle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        oracle, mode="max", patience=0, factor=0.5, threshold=1e-4, min_lr=1e-5
    )
    expected = []
    for row in state.rows:
        expected.append(oracle.param_groups[0]["lr"])
        plateau.step(row.val_accuracy)
    assert [row.lr for row in state.rows] == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) > 1
    assert steps_per_epoch(73, 20) == 4
    assert np.allclose(state.history.lrs.reshape(8, 4), np.array(expected)[:, None])


# --- smaller images at first -------------------------------------------------------------------


class Recorder(nn.Module):
    """Takes images of any size, and keeps the sizes it saw in training."""

    def __init__(self, channels, classes):
        super().__init__()
        self.fc, self.observed = nn.Linear(channels, classes), []

    def forward(self, images):
        if self.training:
            self.observed.append(tuple(images.shape[2:]))
        return self.fc(images.mean((2, 3)))


def test_images_are_smaller_for_a_share_of_the_steps(data):
    channels, size = data.train.images.shape[1], data.train.images.shape[-1]
    recipe = recipe_of(training={"progressive": Progressive(px=8, share=0.4), "batch_size": 7})
    model = Recorder(channels, len(data.classes))
    state, _ = finish(recipe, data, model)
    total = state.schedule.total_steps
    early = math.ceil(0.4 * total)
    assert 0 < early < total
    assert model.observed == [(8, 8)] * early + [(size, size)] * (total - early)


def test_smaller_images_hold_the_same_picture(data):
    """An image of one color a half stays one: nothing is cropped, mirrored or shifted."""
    halves = torch.zeros(2, 3, 32, 32)
    halves[..., 16:] = 1
    state = init_state(
        recipe_of(training={"progressive": Progressive(px=24)}), data, Recorder(3, 3)
    )
    small = _resize(halves, state, Training(progressive=Progressive(px=24)))
    assert small.shape == (2, 3, 24, 24)
    torch.testing.assert_close(small[..., :11], torch.zeros(2, 3, 24, 11))
    torch.testing.assert_close(small[..., 13:], torch.ones(2, 3, 24, 11))
