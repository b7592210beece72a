"""Check the weights before the first step, and the gradients that reach them."""

import math
from collections.abc import Iterator

from torch import Tensor, nn

from .issues import Issue, Skipped, error, first_names, note, warning
from .probe import LAYERS, Probe

VANISHING = 1e-7  # of the largest gradient; scales that start at 1e-6 on purpose are usual


def initial_weights(probe: Probe) -> Iterator[Issue]:
    """Check that the units of a layer start with different weights.

    Why is this bad:
        Units with equal weights get equal gradients, and stay equal for ever: the layer counts as
        one unit.
    Example:
        nn.init.constant_(model.conv.weight, 0.01)
    Fix:
        Draw weights at random: torch's layers do so by themselves. Only a last layer, or the last
        norm of a block, may start at 0.
    """
    equal: list[str] = []
    zeros: list[str] = []
    for name, module in probe.model.named_modules():
        if isinstance(module, LAYERS) and module.weight.requires_grad and len(module.weight) > 1:
            weight = module.weight.detach()
            if bool((weight == weight[:1]).all()):
                (equal if bool(weight.any()) else zeros).append(name)
    if equal or len(zeros) > 1:
        yield error(
            f"all units have the same weights in {first_names(equal + zeros)}",
            "draw weights at random, as torch's layers do by themselves",
        )


def unregistered_weights(probe: Probe) -> Iterator[Issue]:
    """Check that every weight the loss depends on is a parameter of the model.

    Why is this bad:
        Layers in a list or a dictionary, and tensors that are no `nn.Parameter`, are not in
        `model.parameters()`: no optimizer trains them, and no checkpoint saves them.
    Example:
        layers = [nn.Conv2d(3, 3, 3, padding=1)]


        class Listed(nn.Sequential):
            def forward(self, images):
                first = layers[0]
                return super().forward(first(images))


        model = Listed(model)
    Fix:
        Use `nn.ModuleList`, `nn.ModuleDict` or `nn.Parameter`.
    """
    if probe.unregistered:
        shapes = first_names(" x ".join(map(str, shape)) or "1" for shape in probe.unregistered)
        yield error(
            f"the loss depends on {len(probe.unregistered)} weights that are no parameters of the "
            f"model, of shape {shapes}",
            "put layers into nn.ModuleList or nn.ModuleDict, and tensors into nn.Parameter",
        )


def frozen_weights(probe: Probe) -> Iterator[Issue]:
    """Check that something is trained, and that frozen layers were trained before.

    Why is this bad:
        A frozen layer with random weights keeps them for ever. This happens when pretrained
        weights are not loaded, or when the wrong layers are frozen.
    Example:
        model.conv.requires_grad_(False)
    Fix:
        Load the pretrained weights, and freeze after that; or train all layers.
    """
    parameters = dict(probe.model.named_parameters())
    frozen = {name for name, p in parameters.items() if not p.requires_grad}
    if parameters and len(frozen) == len(parameters):
        yield error(
            "every parameter is frozen, so nothing is trained",
            "set requires_grad = True on what is to be trained, at least the last layer",
        )
        return
    new = [
        name
        for name, module in probe.model.named_modules()
        if isinstance(module, LAYERS) and not module.weight.requires_grad and _looks_new(module)
    ]
    if new and not probe.tracked:
        yield warning(
            f"frozen layers have the weights that torch draws for a new layer: {first_names(new)}",
            "load pretrained weights before freezing, or train these layers",
        )
    elif frozen:
        share = sum(parameters[name].numel() for name in frozen)
        total = sum(p.numel() for p in parameters.values())
        if share > 0.5 * total:
            yield note(f"{share / total:.1%} of the weights are frozen", "ignore it if it is meant")


def gradients(probe: Probe) -> Iterator[Issue]:
    """Check that the loss reaches every parameter with a finite gradient that is not 0.

    Why is this bad:
        A parameter without a gradient never learns: its layer is not called, or something cuts
        the graph between it and the loss. Units that give 0 for every image have a gradient of 0,
        and stay as they are. Through many sigmoids a gradient vanishes.
    Example:
        def loss_fn(outputs, labels):
            return F.cross_entropy(outputs.detach(), labels)
    Fix:
        Call the layer in forward, and look for `detach()`, `no_grad()` or `.item()` on the way.
    """
    if not probe.gradients:
        raise Skipped("every parameter is frozen")
    idle = [name for name, gradient in probe.gradients.items() if gradient is None]
    if len(idle) == len(probe.gradients):
        yield error(
            "the loss has no gradient in any parameter",
            "look for detach(), no_grad() or .item() between model and loss",
        )
    elif idle:
        yield warning(
            f"{len(idle)} tensors have no gradient in the loss of this batch: {first_names(idle)}",
            "look for layers that forward does not call, and for detach() or no_grad() behind "
            "them; ignore it if blocks are skipped at random",
        )
    bad = [n for n, g in probe.gradients.items() if g is not None and not bool(g.isfinite().all())]
    if bad:
        yield error(
            f"gradients are NaN or infinite in {first_names(bad)}",
            "look at the pixels and the loss of the first batch",
        )
    else:
        yield from _small_gradients(probe)


def _small_gradients(probe: Probe) -> Iterator[Issue]:
    """Judge the sizes of the gradients of all weights of two dimensions or more."""
    weights = [p for name, p in probe.model.named_parameters() if not name.endswith("bias")]
    sizes = {
        name: float(gradient.float().square().mean().sqrt())
        for name, gradient in probe.gradients.items()
        if gradient is not None and gradient.ndim > 1
    }
    if not sizes or any(not bool(w.any()) for w in weights if w.numel() > 1):
        return  # a layer that starts at 0 on purpose lets no gradient through before the first step
    if still := [name for name, size in sizes.items() if size == 0]:
        yield (error if len(still) == len(sizes) else warning)(
            f"the gradient is 0 throughout in {first_names(still)}",
            "look for units that give 0 for every image, and for a loss that does not change",
        )
    elif min(sizes.values()) < VANISHING * max(sizes.values()):
        name = min(sizes, key=lambda name: sizes[name])
        yield warning(
            f"the gradient vanishes: in {name} it is {sizes[name] / max(sizes.values()):.0e} of "
            "the largest",
            "use ReLU in place of sigmoid or tanh, norms, or shortcuts around layers",
        )


def _looks_new(module: nn.Module) -> bool:
    """Whether weights are uniform up to 1 / sqrt(fan in), as torch draws those of a layer."""
    weight: Tensor = module.weight.detach().float()  # type: ignore[operator]
    bound = 1 / math.sqrt(weight[0].numel())
    if weight.numel() < 32 or float(weight.abs().max()) > bound * (1 + 1e-3):
        return False
    return abs(float(weight.square().mean().sqrt()) / bound * math.sqrt(3) - 1) < 0.15
