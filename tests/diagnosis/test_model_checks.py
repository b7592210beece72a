"""One error at a time in model, loss or augmentation: the check of that name has the only issue.

Rows without an issue are usual.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from own_loop import CLASSES, Net, diagnose_loop, one_batch, pictures, row, severities_and_checks
from torch import Tensor, nn


def blind(features: Tensor) -> Tensor:
    return features.mean(dim=0, keepdim=True).expand_as(features)


def softmax() -> Net:
    return Net(outputs=lambda outputs: outputs.softmax(dim=1))


def log_softmax() -> Net:
    return Net(outputs=lambda outputs: outputs.log_softmax(dim=1))


def net_with(change: Callable[[Net], object]) -> Callable[[], Net]:
    """Return what builds a network and changes its weights."""

    def build() -> Net:
        model = Net()
        with torch.no_grad():
            change(model)
        return model

    return build


def zero_head(model: Net) -> None:
    for parameter in model.head.parameters():
        parameter.zero_()


def head_of_two_shares(model: Net) -> None:
    model.head = nn.Linear(8, 2)
    model.head.bias.copy_(torch.tensor([0.98, 0.02]).log())


def rare_class() -> list[tuple[Tensor, Tensor]]:
    return one_batch(pictures().tensors[0], (torch.arange(256) % 50 == 7).long())


def trained() -> nn.Module:
    """A trained model whose only sign is its loss: no batch norm, no optimizer state."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))
    images, labels = pictures().tensors
    trainer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(30):
        trainer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        trainer.step()
    return model


def twice_averaged(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels) / len(labels)


def detached(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs.detach(), labels)


def squares(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(outputs, F.one_hot(labels, CLASSES).float())


MODELS = [
    row(
        "blind",
        "warning outputs",
        "error evaluation-mode",
        model=lambda: Net(features=blind, dropout=0.0),
    ),
    row("head of zeros", "note outputs", model=net_with(zero_head)),
    row("two softmaxes", "error logits", model=softmax),
    row("two log-softmaxes", "warning logits", model=log_softmax),
    row("likelihood of logits", "error logits", loss_fn=F.nll_loss),
    row("twice the likelihood", "error logits", loss_fn=lambda *pair: 2 * F.nll_loss(*pair)),
    row("twice averaged", "error mean-loss", loss_fn=twice_averaged),
    row("sum", "warning mean-loss", loss_fn=nn.CrossEntropyLoss(reduction="sum")),
    row("no labels", "error label-loss", loss_fn=lambda outputs, labels: outputs.square().mean()),
    row("sure", "warning first-loss", model=net_with(lambda model: model.head.weight.mul_(200))),
    row("trained", "warning first-loss", model=trained),
    row("idle layer", "warning gradients", model=lambda: Net(idle=nn.Linear(3, 3))),
    row("detached", "error gradients", loss_fn=detached),
    row("idle dropout", "warning dropout", model=lambda: Net(idle=nn.Dropout(0.5))),
    row("F.dropout", "error evaluation-mode", model=lambda: Net(features=F.dropout)),
    row("bad norm", "error evaluation-mode", model=net_with(lambda m: m.norm.running_var.sub_(2))),
    row("batch statistics", "error evaluation-mode", model=lambda: Net(tracked=False)),
    row(
        "rare class",
        "warning class-shares",
        model=net_with(head_of_two_shares),
        batches=rare_class,
        val_batches=lambda: None,
    ),
    row("DataParallel", model=lambda: nn.DataParallel(Net())),
    row("label smoothing", loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1)),
    row("squares", loss_fn=squares),
    row("likelihood of log-softmax", model=log_softmax, loss_fn=nn.NLLLoss()),
    row(
        "bfloat16",
        model=lambda: Net().bfloat16(),
        images=lambda: pictures().tensors[0].bfloat16(),
        val_batches=list,
    ),
]


def discarded_cutout(images: Tensor) -> Tensor:
    images.clone()[:, :, 2:6, 2:6] = 0
    return images


def cutout_in_place(images: Tensor) -> Tensor:
    images[:, :, 2:6, 2:6] = 0
    return images


TRANSFORMS = [
    row("no change", "error augment", augment=lambda images: images.clone()),
    row("discarded", "error augment", augment=discarded_cutout),
    row("batch", "error augment", augment=lambda x: x.flip(-1) if torch.rand(1) < 0.5 else x),
    row("not random", "warning augment", augment=lambda images: images.flip(-1)),
    row("in place", "error augment", augment=cutout_in_place),
    row("its own inverse", "error augment", augment=lambda images: images.copy_(images.flip(-1))),
]


@pytest.mark.parametrize(("issues", "objects"), MODELS + TRANSFORMS)
def test_models_losses_and_transforms(issues: set[str], objects: dict[str, Any]) -> None:
    assert severities_and_checks(diagnose_loop(**objects)) == issues
