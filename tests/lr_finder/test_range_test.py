"""The range test visits its rates, records the losses, and leaves no trace in later training."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from resight.errors import UsageError
from resight.lr_finder.range_test import default_range, lr_range_test, lr_values
from resight.training.restore import preserve_state

K = 4


class Normed(nn.Module):
    """Convolution, batch norm, dropout; it counts calls and sums images in its attributes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(6, K)
        self.register_buffer("total", torch.zeros(3), persistent=False)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        self.total = self.total + images.mean(
            dim=(0, 2, 3)
        )  # a new tensor, not the old one changed
        features = F.relu(self.norm(self.conv(images))).mean(dim=(2, 3))
        return self.fc(self.drop(features))


class Frozen(nn.Module):
    """The first layer does not learn, and its batch norm stays in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)).requires_grad_(False)
        self.first.eval()
        self.fc = nn.Linear(6, K)

    def forward(self, images):
        return self.fc(self.first(images).mean(dim=(2, 3)))


class Tied(nn.Module):
    """Two layers that are one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3 * 36, 3 * 36)
        self.second = nn.Linear(3 * 36, 3 * 36)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(3 * 36, K)

    def forward(self, images):
        return self.fc(F.relu(self.second(F.relu(self.first(images.flatten(1))))))


MODELS = [Normed, Frozen, Tied]
OPTIMIZERS = {
    "sgd": lambda groups: SGD(groups, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda groups: Adam(groups, lr=1e-3, amsgrad=True),
    "adamw": lambda groups: AdamW(groups, lr=1e-3),
    "rmsprop": lambda groups: RMSprop(groups, lr=1e-3, momentum=0.5, centered=True),
}


def data(n=64):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(K, (n,), generator=generator)
    images = torch.randn(n, 3, 6, 6, generator=generator) + labels[:, None, None, None] / 2
    return TensorDataset(images, labels)


def batches(size=16):
    dataset = data()
    return list(zip(*(tensor.split(size) for tensor in dataset.tensors), strict=True))


def build(kind, make, seed=1):
    torch.manual_seed(seed)
    model = kind()
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": weights[:1], "lr": 0.01}, {"params": weights[1:]}]
    return model, make(groups)


def frozen_sgd():
    return build(Frozen, lambda groups: SGD(groups, lr=0.05))


def measure(model, optimizer, loss_fn=F.cross_entropy, **settings):
    """The range test on `batches()`."""
    return lr_range_test(model, optimizer, loss_fn, batches(), **settings)


def train(model, optimizer, loader, scheduler=None):
    """Two passes over the loader; images are jittered by all three sources of randomness."""
    for images, labels in itertools.chain(loader, loader):
        jitter = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        loss = F.cross_entropy(model(images + jitter), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


def everything(model, optimizer):
    """All there is to know of a model and its optimizer, in values that == compares."""

    def plain(value):
        return (value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else value

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    states = [
        {name: plain(v) for name, v in optimizer.state[p].items()} if p in optimizer.state else None
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    groups = [
        {name: plain(v) for name, v in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    return {
        "tensors": {name: plain(tensor) for name, tensor in tensors.items()},
        "grads": {name: plain(p.grad) for name, p in model.named_parameters()},
        "training": [module.training for module in model.modules()],
        "calls": getattr(model, "calls", None),
        "states": states,
        "groups": groups,
        "attributes": sorted(vars(optimizer)),
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
    }


def jittered_loss(outputs, labels):
    """Draws from all three sources, as an augmentation would."""
    noise = random.random() * np.random.rand() * torch.rand(())  # noqa: NPY002
    return F.cross_entropy(outputs, labels) + noise


def interrupted(error):
    calls = itertools.count()

    def loss_fn(outputs, labels):
        if outputs.requires_grad and next(calls) == 4:
            raise error
        return jittered_loss(outputs, labels)

    return loss_fn


ENDS = {"to the end": None, "an exception": RuntimeError, "Ctrl-C": KeyboardInterrupt}


# Every model and optimizer after some steps; every end, before and after the first step, with one.
CASES = [(kind, name, True, "to the end") for kind in MODELS for name in OPTIMIZERS]
CASES += [(Normed, "adam", False, end) for end in ENDS]
CASES += [(Normed, "adam", True, end) for end in ("an exception", "Ctrl-C")]


@pytest.mark.parametrize(("kind", "name", "warm", "end"), CASES)
def test_training_after_a_range_test_is_training_without_it(kind, name, warm, end):
    def run(with_test):
        model, optimizer = build(kind, OPTIMIZERS[name])
        loader = DataLoader(data(), 16, shuffle=True, generator=torch.Generator().manual_seed(5))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        random.seed(2)
        np.random.seed(2)  # noqa: NPY002
        if warm:
            train(model, optimizer, loader)
        before = everything(model, optimizer)
        if with_test:
            error = ENDS[end]
            loss_fn = jittered_loss if error is None else interrupted(error())
            arguments = (model, optimizer, loss_fn, loader)
            if error is None:
                lr_range_test(*arguments, start=1e-4, end=0.1, steps=10, val_batches=batches())
            else:
                with pytest.raises(error):
                    lr_range_test(*arguments, steps=10)
            assert everything(model, optimizer) == before
        train(model, optimizer, loader, scheduler)
        return everything(model, optimizer)

    assert run(with_test=True) == run(with_test=False)


def test_gradients_are_the_same_objects_afterwards():
    model, optimizer = build(Normed, OPTIMIZERS["adam"])
    F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    model.fc.bias.grad = None
    gradients = [p.grad for p in model.parameters()]
    values = [g if g is None else g.clone() for g in gradients]
    parameters = list(model.parameters())
    measure(model, optimizer, steps=10)
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(g is None or g.equal(v) for g, v in zip(gradients, values, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_a_loss_with_weights_and_odd_optimizer_state_are_restored():
    model, optimizer = build(Normed, OPTIMIZERS["sgd"])
    loss_fn = nn.BatchNorm1d(K)
    first = next(model.parameters())
    optimizer.state[first]["past"] = [1, 2]
    optimizer.param_groups[0]["initial_lr"] = 0.01
    with preserve_state(optimizer, model, loss_fn):
        loss_fn(torch.randn(8, K))
        loss_fn.eval()
        optimizer.state[first]["past"].append(3)
        optimizer.param_groups[0].update(initial_lr=7.0, swa_lr=1.0)
        model.conv.bias.data.fill_(-0.0)
        model.fc.weight.data.fill_(math.nan)
        model.cache = "new"
        del model.total
    assert loss_fn.training
    assert loss_fn.num_batches_tracked == 0
    assert optimizer.state[first]["past"] == [1, 2]
    assert optimizer.param_groups[0]["initial_lr"] == 0.01
    assert "swa_lr" not in optimizer.param_groups[0]
    assert not hasattr(model, "cache")
    assert model.total.shape == (3,)
    same, _ = build(Normed, OPTIMIZERS["sgd"])
    for p, q in zip(model.parameters(), same.parameters(), strict=True):
        assert p.detach().numpy().tobytes() == q.detach().numpy().tobytes()


def test_lazy_layers_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(K))
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(UsageError, match="lazy layers"):
        measure(model, optimizer)


# --- what it visits -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["exponential", "linear"])
def test_the_rates_visited_are_those_of_the_range(scale):
    model, optimizer = frozen_sgd()
    visited = []
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: visited.append([group["lr"] for group in opt.param_groups])
    )
    curve = measure(model, optimizer, start=1e-4, end=1e-2, steps=12, scale=scale)
    lower, highest = np.array(visited).T
    np.testing.assert_array_equal(highest, curve.lrs)
    np.testing.assert_allclose(lower, highest / 5)  # the groups' 0.01 and 0.05
    assert (highest[0], highest[-1]) == (1e-4, 1e-2)
    even = np.diff(np.log(highest)) if scale == "exponential" else np.diff(highest)
    np.testing.assert_allclose(even, even[0])
    assert curve.images == 13 * 16
    assert curve.scale == scale


def test_the_range_fits_the_optimizer():
    weight = [torch.zeros(1, requires_grad=True)]
    assert default_range(SGD(weight, lr=0.1, momentum=0.9)) == (1e-4, 10)
    assert default_range(SGD(weight, lr=0.1)) == (1e-3, 100)
    for kind in (Adam, AdamW, RMSprop):
        assert default_range(kind(weight, lr=0.1)) == (1e-6, 1)


def test_a_rate_of_zero_at_the_start_of_a_warm_up():
    model, optimizer = frozen_sgd()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 10)
    values = set()
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: values.add(opt.param_groups[1]["lr"] / opt.param_groups[0]["lr"])
    )
    measure(model, optimizer, steps=10)
    assert {round(ratio, 6) for ratio in values} == {5}
    assert scheduler.get_last_lr() == [0, 0]
    for group in optimizer.param_groups:
        del group["initial_lr"]
    measure(model, optimizer, steps=10)
    assert {round(ratio, 6) for ratio in values} == {5, 1}  # nothing says how they differ


def test_the_curve_is_that_of_a_plain_loop():
    model, optimizer = frozen_sgd()
    curve = measure(model, optimizer, steps=10, end=0.1, probe=0)
    expected = []
    pairs = itertools.cycle(batches())
    loss = F.cross_entropy(model(next(pairs)[0]), batches()[0][1])
    for lr in curve.lrs:
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = lr / 5, lr
        optimizer.step()
        images, labels = next(pairs)
        loss = F.cross_entropy(model(images), labels)  # after the step, on the next batch
        expected.append(loss.item())
    np.testing.assert_allclose(curve.losses, expected, rtol=1e-6)
    assert curve.chance == pytest.approx(math.log(K))


def test_the_batches_set_aside_are_scored_as_in_training_and_not_trained_on():
    model, optimizer = build(Normed, lambda groups: SGD(groups, lr=0.05))
    scored = []

    def loss_fn(outputs, labels):
        scored.append((outputs.requires_grad, labels))
        return F.cross_entropy(outputs, labels)

    settings = {"steps": 10, "start": 1e-9, "end": 1e-8}
    curve = measure(model, optimizer, loss_fn, probe=2, **settings)
    references = 7  # one guess and six perfect answers, after the first score
    aside = [labels for with_gradient, labels in scored if not with_gradient]
    trained = [labels for with_gradient, labels in scored if with_gradient]
    assert len(aside) == 2 * 11 + references
    assert torch.equal(torch.cat(aside[:2]), torch.cat([labels for _, labels in batches()[:2]]))
    assert torch.equal(trained[0], batches()[2][1])
    # The weights hardly move, and images and dropout are the same: the curve is flat.
    assert np.ptp(curve.losses) < 1e-5
    other = measure(model, optimizer, probe=0, **settings)
    assert np.ptp(other.losses) > 0.05


def test_validation_batches_are_what_is_scored():
    model, optimizer = build(Normed, lambda groups: SGD(groups, lr=0.05))
    images, labels = data(40).tensors
    uneven = [(images[:30], labels[:30]), (images[30:], labels[30:])]
    settings = {"steps": 5, "end": 0.01}
    parts = measure(model, optimizer, val_batches=uneven, **settings)
    whole = measure(model, optimizer, val_batches=[(images, labels)], **settings)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-6)
    model.eval()
    first = F.cross_entropy(model(images), labels).item()
    assert whole.losses[0] != first
    assert whole.losses[0] == pytest.approx(first, rel=0.2)  # without dropout, nearly as before
    with pytest.raises(UsageError, match="val_batches gave no batch"):
        measure(model, optimizer, val_batches=iter(uneven))


def test_validation_batches_may_come_from_a_loader_without_a_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data(8))

    model, optimizer = frozen_sgd()
    loader = DataLoader(Stream(), 4)
    curve = measure(model, optimizer, val_batches=loader, steps=3, end=0.01)
    assert np.isfinite(curve.losses).all()


def test_accumulated_batches_are_one_large_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, K)).double()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = data(60).tensors
    images = images.double()
    large = [(images[:30], labels[:30]), (images[30:], labels[30:])]
    cuts = [0, 7, 20, 30, 37, 50, 60]  # parts of different sizes
    small = [(images[a:b], labels[a:b]) for a, b in itertools.pairwise(cuts)]
    settings = {"steps": 15, "end": 0.1, "probe": 0}
    one = lr_range_test(model, optimizer, F.cross_entropy, large, **settings)
    three = lr_range_test(model, optimizer, F.cross_entropy, small, accumulate=3, **settings)
    np.testing.assert_allclose(three.losses, one.losses, rtol=1e-10)
    assert three.images == one.images == 16 * 30


@pytest.mark.parametrize("kind", [Normed, Tied])
def test_the_seed_decides(kind):
    model, optimizer = build(kind, OPTIMIZERS["adam"])
    loader = DataLoader(data(), 16, shuffle=True)

    def losses(seed):
        torch.rand(1)
        random.random()
        return lr_range_test(
            model, optimizer, jittered_loss, loader, steps=8, end=1e-3, seed=seed
        ).losses.tolist()

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_mixed_precision():
    model, optimizer = build(Frozen, OPTIMIZERS["adam"])
    values = set()

    def loss_fn(outputs, labels):
        if outputs.requires_grad:
            values.add(outputs.dtype)
        return F.cross_entropy(outputs, labels)

    measure(model, optimizer, loss_fn, steps=5, dtype=torch.bfloat16)
    assert values == {torch.bfloat16}


# --- where it stops -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_test(bad):
    model, optimizer = frozen_sgd()
    calls = itertools.count()

    def loss_fn(outputs, labels):
        broken = outputs.requires_grad and next(calls) == 20
        return F.cross_entropy(outputs, labels) + (bad if broken else 0)

    curve = measure(model, optimizer, loss_fn, end=0.1, steps=40, probe=0)
    rates = lr_values(1e-3, 0.1, 40, "exponential")
    assert curve.stopped == f"the loss became {bad} after step 20 of 40, at lr {rates[19]:.3g}"
    np.testing.assert_array_equal(curve.lrs, rates[:20])
    assert np.isfinite(curve.losses[:19]).all()
    assert not math.isfinite(curve.losses[19])
    assert curve.best_lr < rates[19]

    calls = itertools.count(20)
    curve = measure(model, optimizer, loss_fn, probe=0)
    assert curve.stopped == f"the loss is {bad} before the first step"
    assert not curve.verdict.ok
    assert len(curve.lrs) == 0


def test_divergence_stops_the_test_and_one_bad_batch_does_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, K))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    curve = measure(model, optimizer, start=1e-3, end=1e4)
    n = len(curve.lrs)
    assert 10 < n < 60
    assert f"over 4 times its best, after step {n} of 60, at lr {curve.lrs[-1]:.3g}" in (
        curve.stopped
    )
    assert min(curve.losses[-2:]) > 4 * curve.best_loss
    later = measure(model, optimizer, start=1e-3, end=1e4, stop_at=1e6)
    assert len(later.lrs) > n

    calls = itertools.count()

    def one_spike(outputs, labels):
        spike = outputs.requires_grad and next(calls) == 5
        return F.cross_entropy(outputs, labels) * (100 if spike else 1)

    optimizer = SGD(model.parameters(), lr=0.1)
    curve = measure(model, optimizer, one_spike, end=1e-3 * 1.01, steps=20, probe=0)
    assert curve.stopped is None
    assert curve.losses[4] > 50


def test_a_small_loss_may_be_noisy():
    """Four times a loss near 0 is not divergence while it is below where it began."""
    model, optimizer = frozen_sgd()
    losses = iter([2.0, *np.geomspace(1, 0.01, 8), *([0.3, 0.4] * 6)])

    def loss_fn(outputs, labels):
        return outputs.sum() * 0 + (next(losses) if outputs.requires_grad else 0.0)

    curve = measure(model, optimizer, loss_fn, steps=20, probe=0)
    assert curve.stopped is None


def test_it_finds_a_rate_that_trains():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 32), nn.ReLU(), nn.Linear(32, K))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    curve = measure(model, optimizer)
    assert curve.verdict.ok, curve.verdict
    assert curve.constant < curve.peak <= 2 * curve.best_lr  # SGD bears more than a cold test sees


# --- what it refuses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 1.0, "end": 0.1}, "start = 1 and end = 0.1"),
        ({"start": 0.0}, "start = 0 "),
        ({"end": math.nan}, "end = nan"),
        ({"steps": 1}, "steps = 1 must"),
        ({"scale": "exponental"}, 'did you mean "exponential"'),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"stop_at": 1.0}, "stop_at = 1.0"),
        ({"batches": []}, "batches is empty"),
        ({"batches": iter(batches())}, "batches ended after 4 and cannot be started again"),
        ({"batches": [torch.zeros(2, 3, 6, 6)]}, "a batch is a Tensor"),
        ({"batches": [{"x": 1}]}, "a batch is a dict"),
        ({"loss_fn": nn.CrossEntropyLoss(reduction="none")}, r"loss_fn gave shape \(16,\)"),
        ({"loss_fn": lambda outputs, labels: 1.0}, "loss_fn gave float"),
    ],
)
def test_bad_input_is_named(settings, message):
    model, optimizer = build(Frozen, OPTIMIZERS["sgd"])
    before = everything(model, optimizer)
    arguments = {"loss_fn": F.cross_entropy, "batches": batches()} | settings
    with pytest.raises(UsageError, match=message) as caught:
        lr_range_test(model, optimizer, **arguments)
    assert "\n" not in str(caught.value)
    assert everything(model, optimizer) == before


def test_a_generator_that_lasts_is_enough():
    model, optimizer = build(Frozen, OPTIMIZERS["sgd"])
    curve = lr_range_test(model, optimizer, F.cross_entropy, iter(batches(5)), steps=11, end=0.01)
    assert len(curve.lrs) == 11
