"""One fault at a time, planted in objects that are well: the check of that name finds it, alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import resight
from resight.diagnosis.diagnose import OBJECT_CHECKS
from resight.errors import UsageError

CLASSES = 10


class Net(nn.Module):
    """Whatever a small network for images has, and places to plant a fault."""

    def __init__(self, *, dropout: float = 0.15, tracked: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8, track_running_stats=tracked)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.dropout(self.pooled(images)))

    def pooled(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(images))).mean(dim=(2, 3))

    def logits(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.head(features)
        return outputs


def pictures(n: int = 256, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % CLASSES)


def flip(images: Tensor) -> Tensor:
    """Each image by a coin of its own."""
    coins = torch.rand(len(images)) < 0.5
    return torch.where(coins[:, None, None, None], images.flip(-1), images)


@dataclass
class Case:
    """Objects that are well; a test changes some of them."""

    model: nn.Module = field(default_factory=Net)
    optimizer: Any = None
    loss_fn: Any = F.cross_entropy
    batches: Any = None
    scheduler: Any = None
    steps: int | None = 100
    val_batches: Any = None
    augment: Any = flip

    def diagnose(self) -> resight.Diagnosis:
        torch.manual_seed(3)
        optimizer = self.optimizer or sgd(self.model)
        held_out = self.val_batches  # a loader that gives no batch is False
        if held_out is None:
            held_out = DataLoader(pictures(70, seed=1), batch_size=32)
        return resight.diagnose(
            self.model,
            optimizer,
            self.loss_fn,
            self.batches or DataLoader(pictures(), batch_size=64, shuffle=True),
            scheduler=self.scheduler or one_cycle(optimizer),
            steps=self.steps,
            val_batches=held_out,
            augment=self.augment,
        )


def sgd(model: nn.Module, **settings: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **settings})


def one_cycle(optimizer: Any, steps: int = 100) -> torch.optim.lr_scheduler.OneCycleLR:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)


def test_what_is_well_has_no_findings() -> None:
    diagnosis = Case().diagnose()
    assert diagnosis.issues == ()
    assert diagnosis.passed == (*OBJECT_CHECKS, "augment")
    assert not diagnosis.skipped


def test_what_was_not_given_is_left_out_and_said() -> None:
    model = Net()
    diagnosis = resight.diagnose(model, sgd(model), F.cross_entropy, [pictures(64).tensors])
    assert diagnosis.issues == ()
    assert diagnosis.skipped == {
        "scheduler-optimizer": "needs scheduler=",
        "schedule-length": "needs scheduler= and steps=, how often scheduler.step() will be called",
        "validation-data": "needs val_batches=",
        "augment": "needs augment=",
    }


# --- one fault each -------------------------------------------------------------------------


def of_another_model() -> Case:
    return Case(optimizer=sgd(Net()))


def head_left_out() -> Case:
    model = Net()
    return Case(model, torch.optim.SGD([*model.conv.parameters(), *model.norm.parameters()], 0.1))


def scheduler_of_a_replaced_optimizer() -> Case:
    model = Net()
    return Case(model, sgd(model), scheduler=one_cycle(sgd(model)))


def one_cycle_counted_in_epochs() -> Case:
    model = Net()
    optimizer = sgd(model)
    return Case(model, optimizer, scheduler=one_cycle(optimizer, steps=5))


def cosine_far_too_long() -> Case:
    model = Net()
    optimizer = sgd(model)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
    return Case(model, optimizer, scheduler=cosine)


def after_a_step() -> Case:
    model = Net()
    optimizer = sgd(model)
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    return Case(model, optimizer)


def scheduler_under_way() -> Case:
    model = Net()
    optimizer = sgd(model)
    scheduler = one_cycle(optimizer)
    optimizer.step()  # of no gradient: it has no state
    scheduler.step()
    return Case(model, optimizer, scheduler=scheduler, steps=99)


def decay_of_norms() -> Case:
    model = Net()
    return Case(model, sgd(model, weight_decay=5e-4))


def coupled_decay() -> Case:
    model = Net()
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 1e-2}, {"params": others}]
    return Case(model, torch.optim.Adam(groups, lr=1e-3))


def sorted_by_class() -> Case:
    images, labels = pictures().tensors
    rows = labels.argsort(stable=True)
    return Case(batches=list(zip(images[rows].split(20), labels[rows].split(20), strict=True)))


def one_class_first() -> Case:
    images, labels = pictures(1024).tensors
    rows = labels.argsort(stable=True)
    return Case(batches=DataLoader(TensorDataset(images[rows], labels[rows]), batch_size=24))


def never_shuffled() -> Case:
    return Case(batches=DataLoader(pictures(), batch_size=64))


def _of(images: Tensor) -> Case:
    return Case(batches=[(images, torch.arange(len(images)) % CLASSES)])


def as_stored() -> Case:
    return _of(torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8).float())


def by_others_statistics() -> Case:
    """What the widely copied deviations of CIFAR-10 make of its images."""
    scale = torch.tensor([0.2470 / 0.2023, 0.2435 / 0.1994, 0.2616 / 0.2010])
    return _of(torch.randn(64, 3, 8, 8) * scale[:, None, None])


def never_normalized() -> Case:
    return _of(torch.rand(64, 3, 8, 8))


def cutout_in_pixels() -> Case:
    images = torch.randn(64, 3, 8, 8)
    images[:, :, 2:4, 2:4] = 127.5
    return _of(images)


def an_empty_channel() -> Case:
    images = torch.randn(64, 3, 8, 8)
    images[:, 1] = 0
    return _of(images)


def one_image_again() -> Case:
    return _of(torch.randn(4, 3, 8, 8).repeat(16, 1, 1, 1))


def a_blank_image() -> Case:
    images = torch.randn(64, 3, 8, 8)
    images[5] = torch.tensor([0.3, -0.2, 0.1])[:, None, None]  # black, normalized by channel
    return _of(images)


def validation_is_training() -> Case:
    data = pictures()
    shuffled = DataLoader(data, batch_size=64, shuffle=True)
    return Case(batches=shuffled, val_batches=DataLoader(data, batch_size=64))


def _rows_of_one_data_set(*parts: range) -> Case:
    data = pictures()
    batches, val_batches = (
        DataLoader(data, batch_size=64, sampler=SubsetRandomSampler(rows)) for rows in parts
    )
    return Case(batches=batches, val_batches=val_batches)


def validation_shares_rows() -> Case:
    return _rows_of_one_data_set(range(200), range(190, 256))


def validation_is_a_subset() -> Case:
    data = pictures()
    part = Subset(Subset(data, range(100, 256)), range(70))
    shuffled = DataLoader(data, batch_size=64, shuffle=True)
    return Case(batches=shuffled, val_batches=DataLoader(part, batch_size=32))


def validation_smaller_than_a_batch() -> Case:
    return Case(val_batches=DataLoader(pictures(20, seed=1), batch_size=32, drop_last=True))


def validation_without_its_end() -> Case:
    return Case(val_batches=DataLoader(pictures(70, seed=1), batch_size=32, drop_last=True))


class Augmented(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    def __init__(self) -> None:
        self.data = pictures(70, seed=1)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[row]
        return flip(image[None])[0], label


def validation_augmented() -> Case:
    return Case(val_batches=DataLoader(Augmented(), batch_size=32))


def blind() -> Case:
    class Blind(Net):
        def pooled(self, images: Tensor) -> Tensor:
            return super().pooled(images).mean(dim=0, keepdim=True).expand(len(images), -1)

    return Case(Blind(dropout=0.0))


class WithSoftmax(Net):
    def logits(self, features: Tensor) -> Tensor:
        return super().logits(features).softmax(dim=1)


class WithLogSoftmax(Net):
    def logits(self, features: Tensor) -> Tensor:
        return super().logits(features).log_softmax(dim=1)


def softmax_before_cross_entropy() -> Case:
    return Case(WithSoftmax())


def two_log_softmaxes() -> Case:
    return Case(WithLogSoftmax())


def likelihood_of_logits() -> Case:
    return Case(loss_fn=F.nll_loss)


def twice_the_likelihood_of_logits() -> Case:
    return Case(loss_fn=lambda outputs, labels: 2 * F.nll_loss(outputs, labels))


def averaged_twice() -> Case:
    return Case(loss_fn=lambda outputs, labels: F.cross_entropy(outputs, labels) / len(labels))


def summed() -> Case:
    return Case(loss_fn=nn.CrossEntropyLoss(reduction="sum"))


def without_labels() -> Case:
    return Case(loss_fn=lambda outputs, labels: outputs.square().mean())


def wrong_and_sure() -> Case:
    model = Net()
    with torch.no_grad():
        model.head.weight *= 200
    return Case(model)


def trained_before() -> Case:
    """Without traces but its loss: no batch norm, a new optimizer."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))
    images, labels = pictures().tensors
    trainer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(30):
        trainer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        trainer.step()
    return Case(model)


def forgotten_layer() -> Case:
    model = Net()
    model.extra = nn.Linear(3, 3)
    return Case(model)


def detached() -> Case:
    return Case(loss_fn=lambda outputs, labels: F.cross_entropy(outputs.detach(), labels))


def idle_dropout() -> Case:
    class Idle(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.logits(self.pooled(images))

    return Case(Idle())


def dropout_in_evaluation() -> Case:
    class Always(Net):
        def logits(self, features: Tensor) -> Tensor:
            return super().logits(F.dropout(features, 0.5))

    return Case(Always())


def broken_in_evaluation() -> Case:
    model = Net()
    model.norm.running_var -= 2
    return Case(model)


def norm_over_the_batch() -> Case:
    return Case(Net(tracked=False))


def no_augmentation() -> Case:
    return Case(augment=lambda images: images.clone())


def result_thrown_away() -> Case:
    def cutout(images: Tensor) -> Tensor:
        images.clone()[:, :, 2:6, 2:6] = 0
        return images

    return Case(augment=cutout)


def one_coin_for_all() -> Case:
    return Case(augment=lambda images: images.flip(-1) if torch.rand(1) < 0.5 else images)


def the_same_each_time() -> Case:
    return Case(augment=lambda images: images.flip(-1))


def mirrored_in_place() -> Case:
    """Done twice, it has changed nothing."""
    return Case(augment=lambda images: images.copy_(images.flip(-1)))


def in_place() -> Case:
    def cutout(images: Tensor) -> Tensor:
        images[:, :, 2:6, 2:6] = 0
        return images

    return Case(augment=cutout)


PLANTED: list[tuple[Callable[[], Case], str, str]] = [
    (of_another_model, "optimizer-parameters", "error"),
    (head_left_out, "optimizer-parameters", "warning"),
    (scheduler_of_a_replaced_optimizer, "scheduler-optimizer", "error"),
    (one_cycle_counted_in_epochs, "schedule-length", "error"),
    (cosine_far_too_long, "schedule-length", "error"),
    (after_a_step, "untrained", "warning"),
    (scheduler_under_way, "untrained", "warning"),
    (decay_of_norms, "weight-decay", "warning"),
    (coupled_decay, "weight-decay", "warning"),
    (sorted_by_class, "data-order", "error"),
    (one_class_first, "data-order", "error"),
    (never_shuffled, "data-order", "warning"),
    (as_stored, "pixel-values", "warning"),
    (by_others_statistics, "pixel-values", "warning"),
    (never_normalized, "pixel-values", "warning"),
    (cutout_in_pixels, "pixel-values", "warning"),
    (an_empty_channel, "pixel-values", "warning"),
    (one_image_again, "repeated-images", "error"),
    (a_blank_image, "repeated-images", "warning"),
    (validation_is_training, "validation-data", "error"),
    (validation_shares_rows, "validation-data", "error"),
    (validation_is_a_subset, "validation-data", "error"),
    (validation_smaller_than_a_batch, "validation-data", "error"),
    (validation_without_its_end, "validation-data", "error"),
    (validation_augmented, "validation-data", "warning"),
    (blind, "outputs", "warning"),
    (softmax_before_cross_entropy, "logits", "error"),
    (two_log_softmaxes, "logits", "warning"),
    (likelihood_of_logits, "logits", "error"),
    (twice_the_likelihood_of_logits, "logits", "error"),
    (averaged_twice, "mean-loss", "error"),
    (summed, "mean-loss", "warning"),
    (without_labels, "mean-loss", "error"),
    (wrong_and_sure, "first-loss", "warning"),
    (trained_before, "first-loss", "warning"),
    (forgotten_layer, "gradients", "warning"),
    (detached, "gradients", "error"),
    (idle_dropout, "dropout", "warning"),
    (dropout_in_evaluation, "evaluation-mode", "error"),
    (broken_in_evaluation, "evaluation-mode", "error"),
    (norm_over_the_batch, "evaluation-mode", "error"),
    (no_augmentation, "augment", "error"),
    (result_thrown_away, "augment", "error"),
    (one_coin_for_all, "augment", "error"),
    (the_same_each_time, "augment", "warning"),
    (in_place, "augment", "error"),
    (mirrored_in_place, "augment", "error"),
]
# What shows the same fault from another side.
ALSO = {blind: {"evaluation-mode"}, after_a_step: {"first-loss"}}


@pytest.mark.parametrize(
    ("plant", "check", "severity"), [pytest.param(*row, id=row[0].__name__) for row in PLANTED]
)
def test_a_planted_fault_is_found_and_nothing_else(
    plant: Callable[[], Case], check: str, severity: str
) -> None:
    torch.manual_seed(0)
    diagnosis = plant().diagnose()
    assert check in {issue.check for issue in diagnosis.issues}
    assert {issue.check for issue in diagnosis.issues} <= {check} | ALSO.get(plant, set())
    assert {issue.severity for issue in diagnosis.issues if issue.check == check} == {severity}


# --- usual, and well ------------------------------------------------------------------------


def head_begins_at_zero() -> Case:
    model = Net()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return Case(model)


def labels_to_pass_over() -> Case:
    images, labels = pictures().tensors
    return Case(batches=[(images, torch.where(torch.arange(256) % 9 == 0, -100, labels))])


def rows_of_one_data_set() -> Case:
    return _rows_of_one_data_set(range(200), range(200, 256))


def a_random_split() -> Case:
    train, held_out = torch.utils.data.random_split(pictures(), [200, 56])
    shuffled = DataLoader(train, batch_size=64, shuffle=True)
    return Case(batches=shuffled, val_batches=DataLoader(held_out, batch_size=32))


def resumed() -> Case:
    model = Net()
    optimizer = sgd(model)
    scheduler = one_cycle(optimizer)
    for _ in range(40):
        optimizer.step()  # of no gradient: it has no state
        scheduler.step()
    return Case(model, optimizer, scheduler=scheduler, steps=60)


def drawn_again_and_again() -> Case:
    rare = torch.where(torch.arange(256) < 5, 50.0, 1.0)
    loader = DataLoader(pictures(), 64, sampler=WeightedRandomSampler(rare.tolist(), 256))
    return Case(batches=loader)


def own_batches() -> Case:
    class Own(BatchSampler):
        pass

    data = pictures()
    return Case(batches=DataLoader(data, batch_sampler=Own(RandomSampler(data), 64, False)))


def a_rare_class() -> Case:
    """Of labels of which nearly all are one, and a bias that knows it."""
    images, _ = pictures().tensors
    labels = (torch.arange(256) % 50 == 7).long()
    model = Net()
    model.head = nn.Linear(8, 2)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.98, 0.02]).log())
    return Case(model, batches=[(images, labels)])


def in_bfloat16() -> Case:
    images, labels = pictures().tensors
    return Case(Net().bfloat16(), batches=[(images.bfloat16(), labels)], val_batches=[])


def frozen_but_for_the_head() -> Case:
    model = Net()
    for parameter in [*model.conv.parameters(), *model.norm.parameters()]:
        parameter.requires_grad = False
    return Case(model, torch.optim.SGD(model.head.parameters(), lr=0.1))


def cosine_to_the_last_epoch() -> Case:
    model = Net()
    optimizer = sgd(model)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=99)
    return Case(model, optimizer, scheduler=cosine)


def a_state_from_the_start() -> Case:
    model = Net()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    return Case(model, optimizer, scheduler=falling)


def wrapped() -> Case:
    return Case(nn.DataParallel(Net()))


def ink_on_paper() -> Case:
    """Normalized well, with a few pixels far out, as pictures of thin lines have."""
    images = torch.zeros(256, 3, 8, 8)
    rows = torch.arange(256)
    images[rows, :, rows % 8, rows * 3 // 8 % 8] = 1
    images += 0.01 * torch.randn(256, 3, 8, 8)
    images[::4] = 0.01 * torch.randn(64, 3, 8, 8)
    return Case(batches=[((images - images.mean()) / images.std(), rows % CLASSES)])


def mixed_up() -> Case:
    """Mixup: pictures laid over each other have less contrast, and labels are shares."""
    images, labels = pictures().tensors
    soft = F.one_hot(labels, CLASSES).float()
    mixed = (0.6 * images + 0.4 * images.flip(0), 0.6 * soft + 0.4 * soft.flip(0))
    return Case(batches=[mixed])


@pytest.mark.parametrize(
    "usual",
    [
        head_begins_at_zero,
        labels_to_pass_over,
        rows_of_one_data_set,
        a_random_split,
        resumed,
        drawn_again_and_again,
        own_batches,
        a_rare_class,
        in_bfloat16,
        frozen_but_for_the_head,
        cosine_to_the_last_epoch,
        a_state_from_the_start,
        wrapped,
        ink_on_paper,
        mixed_up,
    ],
)
def test_what_is_usual_is_no_fault(usual: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    diagnosis = usual().diagnose()
    allowed = {head_begins_at_zero: {"outputs"}, resumed: {"untrained"}}.get(usual, set())
    assert {issue.check for issue in diagnosis.issues} <= allowed
    assert not diagnosis.errors


def test_a_check_that_raises_is_left_out() -> None:
    def breaks(images: Tensor) -> Tensor:
        raise RuntimeError("made for\nother images")

    diagnosis = Case(augment=breaks).diagnose()
    assert diagnosis.issues == ()
    assert diagnosis.skipped == {"augment": "RuntimeError: made for other images"}


def test_a_rate_of_nothing() -> None:
    model = Net()
    diagnosis = resight.diagnose(
        model, sgd(model, lr=0.0), F.cross_entropy, DataLoader(pictures(), 64, shuffle=True)
    )
    assert [issue.check for issue in diagnosis.errors] == ["zero-lr"]


def test_a_pixel_that_is_no_number_is_named_before_what_it_does_to_the_network() -> None:
    images = torch.randn(64, 3, 8, 8)
    images[0, 0, 0, 0] = torch.nan
    diagnosis = _of(images).diagnose()
    assert diagnosis.errors[0].check == "pixel-values"
    assert "augment" in diagnosis.passed
    assert "1 values are NaN or infinite" in diagnosis.errors[0].message


def test_several_augmentations_are_looked_at_one_by_one() -> None:
    diagnosis = Case(augment={"flip": flip, "cutout": lambda images: images}).diagnose()
    assert [issue.check for issue in diagnosis.issues] == ["augment cutout"]
    assert "augment flip" in diagnosis.passed


def test_other_losses_and_smoothing_are_no_fault() -> None:
    squares = lambda outputs, labels: F.mse_loss(outputs, F.one_hot(labels, CLASSES).float())  # noqa: E731
    for loss_fn in (nn.CrossEntropyLoss(label_smoothing=0.1), squares):
        assert Case(loss_fn=loss_fn).diagnose().issues == ()
    assert Case(WithLogSoftmax(), loss_fn=nn.NLLLoss()).diagnose().issues == ()


def test_labels_that_are_no_classes_leave_checks_out() -> None:
    loader = [(torch.randn(64, 3, 8, 8), torch.rand(64, CLASSES))]
    diagnosis = Case(batches=loader).diagnose()
    assert diagnosis.issues == ()
    assert {"logits", "mean-loss", "first-loss"} <= set(diagnosis.skipped)


def test_everything_is_given_back() -> None:
    model, augment = Net().eval(), in_place().augment
    optimizer = sgd(model)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # type: ignore[index,union-attr]  # noqa: NPY002
    data = pictures(64)
    pixels = data.tensors[0].clone()
    resight.diagnose(model, optimizer, F.cross_entropy, [data.tensors], augment=augment)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not model.training
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.conv.weight.grad is None
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), random_before[0])
    assert random.getstate() == random_before[1]
    assert (np.random.get_state()[1] == random_before[2]).all()  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(data.tensors[0], pixels)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_it_says_is_not_left_to_chance() -> None:
    """A coin for the whole batch that mostly lands on one side."""

    def rarely(images: Tensor) -> Tensor:
        return images.flip(-1) if torch.rand(1) < 0.1 else images

    model = Net()
    loader = DataLoader(pictures(), 64, shuffle=True, generator=torch.Generator().manual_seed(1))
    texts = set()
    for seed in range(8):
        torch.manual_seed(seed)
        diagnosis = resight.diagnose(model, sgd(model), F.cross_entropy, loader, augment=rarely)
        texts.add(repr(diagnosis))
    assert len(texts) == 1
    assert loader.generator is not None
    before = torch.Generator().manual_seed(1).get_state()
    assert torch.equal(loader.generator.get_state(), before)


TWO = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches is empty"),
        ([TWO], "a batch is a Tensor, not two tensors"),
        ([(TWO, [0, 1])], "not two tensors"),
        (
            [(TWO, torch.tensor([0, CLASSES]))],
            "label 10 is none of the model's 10 classes, 0 to 9",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(batches: Any, message: str) -> None:
    model = Net()
    with pytest.raises(UsageError, match=message):
        resight.diagnose(model, sgd(model), F.cross_entropy, batches)


def test_printed_it_is_faults_doubts_and_what_is_well() -> None:
    lines = repr(Case(augment=lambda images: images, batches=never_shuffled().batches).diagnose())
    kinds = [line.split()[0] for line in lines.splitlines() if not line.startswith(" ")]
    assert kinds == ["error", "warning", "passed"]
    assert "it changes none of 64 images in 8 draws" in lines
