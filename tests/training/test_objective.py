"""The loss of images against torch, scikit-learn, autograd and cases worked by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from resight.recipe import Loss
from resight.training.objective import class_weights, image_losses

# 100 images of class 0, 10 of class 1, 1 of class 2.
LABELS = torch.tensor([0] * 100 + [1] * 10 + [2])


def logits_of(labels, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), classes, generator=generator, requires_grad=True)


# --- weights of classes -----------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["balanced", 1.0])
def test_balanced_weights_are_those_of_scikit_learn(balance):
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    weights = class_weights(Loss(class_weights=balance), LABELS, 3)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0])
def test_weights_are_a_power_of_the_count_with_mean_1_over_images(power):
    weights = class_weights(Loss(class_weights=power), LABELS, 3)
    assert float(weights[LABELS].double().mean()) == pytest.approx(1, rel=1e-6)
    ratios = [float(weights[k] / weights[0]) for k in (1, 2)]
    assert ratios == pytest.approx([10**power, 100**power], rel=1e-5)


def test_a_class_without_images_does_not_change_the_weights_of_the_rest():
    weights = class_weights(Loss(class_weights="balanced"), LABELS, 5)
    assert torch.equal(weights[:3], class_weights(Loss(class_weights="balanced"), LABELS, 3))
    assert weights[3:].tolist() == [0, 0]


def test_classes_of_one_size_have_the_weight_1():
    labels = torch.arange(12) % 4
    assert class_weights(Loss(class_weights="balanced"), labels, 4).tolist() == [1, 1, 1, 1]
    assert class_weights(Loss(), labels, 4) is None


def test_the_weighted_loss_is_that_of_torch():
    labels = LABELS[::5]
    logits, weights = logits_of(labels), torch.tensor([0.2, 3.0, 7.0])
    nll, objective = image_losses(logits, labels, Loss(), weights)
    torch.testing.assert_close(nll, F.cross_entropy(logits, labels, reduction="none"))
    expected = F.cross_entropy(logits, labels, weights, reduction="none")
    torch.testing.assert_close(objective, expected)


def test_parts_of_a_batch_add_up_to_its_weighted_gradient():
    logits = logits_of(LABELS)
    loss = Loss(class_weights="balanced", label_smoothing=0.1, focal_gamma=1.5)
    weights = class_weights(loss, LABELS, 3)
    whole = image_losses(logits, LABELS, loss, weights)[1].sum() / len(LABELS)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = [
        image_losses(logits[rows], LABELS[rows], loss, weights)[1].sum() / len(LABELS)
        for rows in torch.arange(len(LABELS)).split([7, 60, 44])
    ]
    (gradient,) = torch.autograd.grad(sum(parts), logits)
    torch.testing.assert_close(gradient, expected)


def test_a_weight_counts_an_image_that_often():
    """Twice the image is the image with weight 2, also with the label smoothed."""
    logits, labels = logits_of([0, 1]), torch.tensor([0, 1])
    loss = Loss(label_smoothing=0.3)
    objective = image_losses(logits, labels, loss, torch.tensor([1.0, 2.0, 50.0]))[1]
    plain = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.3)
    torch.testing.assert_close(objective.sum(), plain[0] + 2 * plain[1])


# --- the focal factor -------------------------------------------------------------------------


def test_the_focal_loss_by_hand():
    """Logits (ln 3, 0): p = 3/4. With gamma 2: (1/4)^2 ln(4/3), and (3/4)^2 ln 4 of the other."""
    logits = torch.tensor([[math.log(3), 0.0]] * 2)
    nll, objective = image_losses(logits, torch.tensor([0, 1]), Loss(focal_gamma=2), None)
    assert nll.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], rel=1e-6)
    expected = [math.log(4 / 3) / 16, 9 * math.log(4) / 16]
    assert objective.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_focal_factor_multiplies_the_smoothed_loss():
    """p = (3/4, 1/4), smoothing 0.2: (1/4)^2 (0.8 ln(4/3) + 0.1 (ln(4/3) + ln 4))."""
    logits, loss = torch.tensor([[math.log(3), 0.0]]), Loss(focal_gamma=2, label_smoothing=0.2)
    objective = image_losses(logits, torch.tensor([0]), loss, None)[1]
    smoothed = 0.8 * math.log(4 / 3) + 0.1 * (math.log(4 / 3) + math.log(4))
    assert objective.tolist() == pytest.approx([smoothed / 16], rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_the_gradient_goes_through_the_focal_factor(gamma):
    """d/dz_y of -(1 - p)^g log p is (1 - p)^g (g p log p + p - 1): equation 3 of the paper."""
    labels = torch.arange(30) % 3
    logits = logits_of(labels)
    image_losses(logits, labels, Loss(focal_gamma=gamma), None)[1].sum().backward()
    p = logits.detach().softmax(1).gather(1, labels[:, None])[:, 0]
    expected = (1 - p) ** gamma * (gamma * p * p.log() + p - 1)
    torch.testing.assert_close(logits.grad.gather(1, labels[:, None])[:, 0], expected)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 2.0])
@pytest.mark.parametrize("height", [15.0, 40.0, 1e4])
def test_an_image_that_is_all_but_certain_has_a_finite_gradient(gamma, height):
    """At p = 1 the slope of (1 - p) ** gamma is infinite, and the loss 0."""
    logits = torch.tensor([[height, 0.0, 0.0], [0.0, height, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0])  # one right, one wrong
    objective = image_losses(logits, labels, Loss(focal_gamma=gamma), None)[1]
    objective.sum().backward()
    assert logits.grad.isfinite().all()
    assert float(logits.grad[0].abs().max()) < 1e-5
    assert float(objective[1].detach()) == pytest.approx(height, rel=1e-5)


def test_the_reported_loss_has_none_of_the_settings():
    labels = torch.arange(9) % 3
    logits, loss = logits_of(labels), Loss(label_smoothing=0.2, focal_gamma=2.0)
    nll = image_losses(logits.bfloat16(), labels, loss, torch.tensor([1.0, 2.0, 3.0]))[0]
    assert nll.dtype == torch.float32
    expected = F.cross_entropy(logits.bfloat16().float(), labels, reduction="none")
    assert torch.equal(nll, expected)
