import io

import pytest
import torch
from torch import nn

from resight import recipe
from resight.networks import build_model
from resight.optim.optimizers import add_l1_gradient, build_optimizer, set_rates

OPTIMIZERS = {
    "sgd": recipe.SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": recipe.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": recipe.Adam(lr=0.01, weight_decay=0.1),
    "adamw": recipe.AdamW(lr=0.01, weight_decay=0.1),
    "rmsprop": recipe.RMSprop(lr=0.01, momentum=0.5, weight_decay=0.1),
}
each_optimizer = pytest.mark.parametrize("spec", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def small_model():
    """Convolution with a bias, two norms, a frozen layer, and a weight used twice."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.LayerNorm([4, 2, 2]),  # its scale has three dimensions
        nn.Conv2d(4, 4, 1),
        nn.Linear(4, 4),
        nn.Linear(4, 4, bias=False),
    )
    model[3].requires_grad_(False)
    model[5].weight = model[4].weight
    return model


def layout(optimizer, model):
    """Names in each group, with lr, lr_scale and weight decay."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [
        ({names[id(p)] for p in g["params"]}, g["lr"], g["lr_scale"], g["weight_decay"])
        for g in optimizer.param_groups
    ]


def fill_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(
                parameter.shape, dtype=parameter.dtype, generator=generator
            )


# --- parameter groups -----------------------------------------------------------------------

WEIGHTS = {"0.weight", "4.weight"}
NORM_BIASES = {"1.bias", "2.bias"}
OTHERS = {"0.bias", "1.weight", "2.weight", "4.bias"}


def test_norms_and_biases_do_not_decay():
    model = small_model()
    optimizer = build_optimizer(recipe.AdamW(lr=0.5, weight_decay=0.1), model)
    assert layout(optimizer, model) == [
        (WEIGHTS, 0.5, 1.0, 0.1),
        (OTHERS | NORM_BIASES, 0.5, 1.0, 0.0),
    ]


def test_norms_and_biases_decay_when_asked():
    model = small_model()
    optimizer = build_optimizer(recipe.AdamW(lr=0.5, decay_norm_bias=True), model)
    assert layout(optimizer, model) == [(WEIGHTS | OTHERS | NORM_BIASES, 0.5, 1.0, 0.01)]


def test_norm_biases_at_their_own_rate():
    model = small_model()
    spec = recipe.SGD(lr=0.5, weight_decay=0.1, norm_bias_lr_scale=64)
    assert layout(build_optimizer(spec, model), model) == [
        (WEIGHTS, 0.5, 1.0, 0.1),
        (OTHERS, 0.5, 1.0, 0.0),
        (NORM_BIASES, 32.0, 64.0, 0.0),
    ]
    spec = spec.model_copy(update={"decay_norm_bias": True})
    assert layout(build_optimizer(spec, model), model) == [
        (WEIGHTS | OTHERS, 0.5, 1.0, 0.1),
        (NORM_BIASES, 32.0, 64.0, 0.1 / 64),
    ]


def test_a_quicker_rate_does_not_decay_quicker():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    spec = recipe.SGD(
        lr=0.5, momentum=0, weight_decay=0.1, decay_norm_bias=True, norm_bias_lr_scale=64
    )
    nn.init.constant_(model[1].bias, 2.0)
    optimizer = build_optimizer(spec, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model[1].weight.detach(), torch.full((2,), 1 - 0.5 * 0.1))
    torch.testing.assert_close(model[1].bias.detach(), torch.full((2,), 2 * (1 - 0.5 * 0.1)))


@pytest.mark.parametrize(
    "model_spec",
    [recipe.ResNet9(norm="layer"), recipe.Swift(), recipe.ResNet()],
    ids=["resnet9", "swift", "resnet18"],
)
def test_every_trainable_parameter_is_in_exactly_one_group(model_spec):
    model = build_model(model_spec, in_channels=3, num_classes=10, image_size=32, seed=0)
    groups = build_optimizer(recipe.SGD(norm_bias_lr_scale=64.0), model).param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert all(group["params"] for group in groups)


def test_muon_turns_convolutions_and_leaves_the_rest_to_sgd():
    model = small_model()
    spec = recipe.Muon(lr=0.05, sgd_lr=0.5, weight_decay=0.1, norm_bias_lr_scale=64)
    optimizer = build_optimizer(spec, model)
    assert layout(optimizer, model) == [
        ({"0.weight"}, 0.05, 1.0, 0.0),
        ({"4.weight"}, 0.5, 10.0, 0.1),
        (OTHERS, 0.5, 10.0, 0.0),
        (NORM_BIASES, 32.0, 640.0, 0.0),
    ]
    set_rates(optimizer, 0.025, None)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.25, 0.25, 16.0]


# --- steps against the formulas -------------------------------------------------------------


def reference_step(spec, weight, gradient, state, step):
    """One step of the formula of `spec` on `weight`; `state` starts empty."""
    zeros = torch.zeros_like(weight)
    if spec.name == "adamw":
        weight = weight - spec.lr * spec.weight_decay * weight
    else:
        gradient = gradient + spec.weight_decay * weight
    match spec.name:
        case "sgd":
            state["v"] = spec.momentum * state.get("v", zeros) + gradient
            update = gradient + spec.momentum * state["v"] if spec.nesterov else state["v"]
        case "adam" | "adamw":
            state["m"] = spec.beta1 * state.get("m", zeros) + (1 - spec.beta1) * gradient
            state["s"] = spec.beta2 * state.get("s", zeros) + (1 - spec.beta2) * gradient**2
            mean = state["m"] / (1 - spec.beta1**step)
            square = state["s"] / (1 - spec.beta2**step)
            update = mean / (square.sqrt() + spec.eps)
        case "rmsprop":
            state["s"] = spec.alpha * state.get("s", zeros) + (1 - spec.alpha) * gradient**2
            scaled = gradient / (state["s"].sqrt() + spec.eps)
            update = state["v"] = spec.momentum * state.get("v", zeros) + scaled
    return weight - spec.lr * update


@each_optimizer
def test_steps_are_the_formula(spec):
    model = nn.Linear(3, 2, bias=False).double()
    nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
    expected, state = model.weight.detach().clone(), {}
    optimizer = build_optimizer(spec, model)
    for step in range(1, 6):
        fill_gradients(model, seed=step)
        expected = reference_step(spec, expected, model.weight.grad.clone(), state, step)
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-12, atol=1e-12)


# --- rates ----------------------------------------------------------------------------------


def test_set_rates_keeps_up_the_scale():
    optimizer = build_optimizer(recipe.SGD(lr=0.5, norm_bias_lr_scale=64), small_model())
    set_rates(optimizer, 0.25, 0.7)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.25, 16.0]
    assert [g["momentum"] for g in optimizer.param_groups] == [0.7] * 3
    set_rates(optimizer, 0.125, None)
    assert [g["lr"] for g in optimizer.param_groups] == [0.125, 0.125, 8.0]
    assert [g["momentum"] for g in optimizer.param_groups] == [0.7] * 3


@pytest.mark.parametrize("spec", [recipe.Adam(beta2=0.9), recipe.AdamW(beta2=0.9)])
def test_momentum_is_beta1_in_adam(spec):
    optimizer = build_optimizer(spec, small_model())
    set_rates(optimizer, 0.1, 0.85)
    assert [g["betas"] for g in optimizer.param_groups] == [(0.85, 0.9)] * 2
    set_rates(optimizer, 0.1, None)
    assert [g["betas"] for g in optimizer.param_groups] == [(0.85, 0.9)] * 2


def test_momentum_can_begin_after_none():
    model = small_model()
    optimizer = build_optimizer(recipe.RMSprop(momentum=0.0), model)
    set_rates(optimizer, 0.1, 0.5)
    fill_gradients(model, seed=0)
    optimizer.step()
    assert all("momentum_buffer" in state for state in optimizer.state.values())


# --- L1 -------------------------------------------------------------------------------------


def test_l1_gradient_is_that_of_autograd():
    model = small_model()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = 0.0
    fill_gradients(model, seed=0)
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    add_l1_gradient(model, 0.01)
    penalty = 0.01 * sum(model.get_parameter(name).abs().sum() for name in sorted(WEIGHTS))
    gradients = torch.autograd.grad(penalty, [model.get_parameter(n) for n in sorted(WEIGHTS)])
    expected = dict(zip(sorted(WEIGHTS), gradients, strict=True))
    for name, gradient in before.items():
        wanted = gradient + expected[name] if name in WEIGHTS else gradient
        torch.testing.assert_close(model.get_parameter(name).grad, wanted, rtol=0, atol=1e-9)


def test_l1_leaves_weights_without_a_gradient():
    model = small_model()
    add_l1_gradient(model, 0.01)
    assert all(p.grad is None for p in model.parameters())


# --- state ----------------------------------------------------------------------------------


@each_optimizer
def test_a_saved_optimizer_goes_on_bit_for_bit(spec):
    def train(model, optimizer, steps):
        for step in steps:
            set_rates(optimizer, 0.1 / step, 0.8 + step / 100)
            fill_gradients(model, seed=step)
            optimizer.step()

    model = small_model()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(spec, model)
    train(model, optimizer, range(1, 4))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, range(4, 7))
    assert not torch.equal(model.state_dict()["0.weight"], start["0.weight"])

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = small_model()
    resumed.load_state_dict(saved["model"])
    optimizer_again = build_optimizer(spec, resumed)
    optimizer_again.load_state_dict(saved["optimizer"])
    train(resumed, optimizer_again, range(4, 7))
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
