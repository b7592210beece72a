"""Borrow a network for a forward pass and keep the outputs of its layers."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, suggest
from ..networks.eval_mode import eval_mode
from ..networks.unwrap import COMPILED_MODULE


@dataclass
class ForwardRecord:
    """The logits of one forward pass, and the activations that were kept."""

    logits: Tensor = field(default_factory=lambda: torch.empty(0))  # (N, K)
    activations: dict[str, Tensor] = field(default_factory=dict)  # layer -> (N, C, h, w)
    linear: tuple[nn.Linear, Tensor, Tensor] | None = None  # the last one: module, input, output


@contextmanager
def borrow(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients and uncompiled, and then back.

    The mode of the caller does not matter. A compiled module would not call hooks that it did not
    know when it was compiled. Autocast stays
    as the caller has it, but for its cache: copies of weights made here, without gradients, must
    not be used by the caller's next training step.
    """
    compiled = any(
        COMPILED_MODULE in module._modules or module._compiled_call_impl is not None
        for module in model.modules()
    )
    eager: AbstractContextManager[Any] = nullcontext()
    if compiled:
        eager = torch.compiler.set_stance("force_eager")
    kind = device.type
    autocast = torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
    with torch.inference_mode(False), eval_mode(model), eager, autocast:
        yield


def forward(
    model: nn.Module, images: Tensor, layers: Mapping[str, nn.Module], *, graph: bool
) -> ForwardRecord:
    """Run a bare, borrowed network and keep the output of `layers`.

    With `graph`, autograd records from the first of the layers on, not before, and what is kept
    can be differentiated by. Then the last linear layer is kept too, for the closed form.

    Each layer hands on a copy of what is kept, so that an in-place operation behind it, as of a
    ReLU, does not change it. A layer that runs twice is kept as of its last run.
    """
    record = ForwardRecord()

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if not (isinstance(output, Tensor) and output.ndim == 4):
            return None
        if not graph:
            record.activations[name] = output.clone()
            return None
        torch.set_grad_enabled(True)  # until the end of the pass
        kept = output if output.requires_grad else output.detach().requires_grad_()
        record.activations[name] = kept
        return kept.clone()

    def keep_linear(module: nn.Linear, args: Any, output: Tensor) -> Tensor | None:
        if not (args and output.requires_grad):
            return None
        record.linear = (module, args[0], output)
        return output.clone()

    with ExitStack() as hooks:
        for name, module in layers.items():
            hooks.callback(module.register_forward_hook(partial(keep, name)).remove)
        for module in model.modules() if graph else ():
            if isinstance(module, nn.Linear):
                hooks.callback(module.register_forward_hook(keep_linear).remove)
        record.logits = run(model, images)
    check_logits(model, record.logits, len(images))
    return record


def run(model: nn.Module, images: Tensor) -> Any:
    """Return the network's output; on a CPU the images go in as channels_last, which is faster.

    Convolutions and pooling take the layout of their input, so no weight has to be changed. A
    network that fails on it, as it views a map with other strides, gets the images as they are.
    """
    if images.device.type == "cpu" and any(isinstance(m, nn.Conv2d) for m in model.modules()):
        try:
            with torch.no_grad():
                return model(images.contiguous(memory_format=torch.channels_last))
        except RuntimeError:
            pass  # an error of another cause is raised again below
    with torch.no_grad():
        return model(images)


def check_logits(model: nn.Module, logits: Any, n: int) -> None:
    """Raise UsageError where a network did not return one row of logits an image."""
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n:
        raise UsageError(
            f"{type(model).__name__} returns {shape} for {n} images; heat maps need a network that "
            f"returns logits ({n}, classes)"
        )


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every layer of a bare network by its path, without the names torch.compile adds."""
    paths = ((path.split("."), module) for path, module in model.named_modules() if path)
    return {
        ".".join(part for part in path if part != COMPILED_MODULE): module
        for path, module in paths
        if path[-1] != COMPILED_MODULE
    }


def find_layers(model: nn.Module, names: list[str] | None, image: Tensor) -> dict[str, nn.Module]:
    """Return the layers of these names.

    None takes the last layer with a map of more than one cell that is not a pooling layer. A name
    may carry the prefix of a wrapper. `image` (1, C, H, W) runs through the network only if needed.
    """
    known = named_layers(model)
    if names is None:
        sizes = map_sizes(model, known, image)
        fit = [n for n, size in sizes.items() if size > 1 and "Pool" not in type(known[n]).__name__]
        if not fit:
            raise no_map(model, "no layer has a map (N, C, h, w) of more than one cell", sizes)
        return {fit[-1]: known[fit[-1]]}
    layers = {}
    for name in names:
        parts = name.split(".")
        while parts[0] in ("module", COMPILED_MODULE) and ".".join(parts) not in known:
            parts = parts[1:] or [""]
        if ".".join(parts) not in known:
            sizes = map_sizes(model, known, image)
            raise no_map(model, f"there is no layer {name!r}{suggest(name, sizes)}", sizes)
        layers[name] = known[".".join(parts)]
    return layers


def map_sizes(model: nn.Module, layers: Mapping[str, nn.Module], image: Tensor) -> dict[str, int]:
    """Return the number of cells of each layer's map, in the order in which the layers finish."""
    sizes: dict[str, int] = {}

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            sizes.pop(name, None)
            sizes[name] = output.shape[2] * output.shape[3]

    with ExitStack() as hooks:
        for name, module in layers.items():
            hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        run(model, image)
    return sizes


def no_map(model: nn.Module, problem: str, sizes: Mapping[str, int]) -> UsageError:
    """Return an error that lists the layers with maps, the outermost first."""
    names = sorted(sizes, key=lambda name: name.count("."))
    valid = ", ".join(names[:12]) + (f", ... {len(names)} in all" if len(names) > 12 else "")
    return UsageError(f"{type(model).__name__}: {problem} (layers with a map: {valid or 'none'})")


def layer_gradients(record: ForwardRecord, cotangent: Tensor, *, again: bool) -> list[Tensor]:
    """Return d(cotangent . logits) / d(activations), (N, K) -> a tensor for each layer.

    The backward pass stops at the earliest layer, and no gradient of a weight is computed.
    `again`: there will be another call.
    """
    activations = list(record.activations.values())
    no_path = UsageError(
        f"no gradient leads from the logits to {', '.join(record.activations)}; "
        "use a method without gradients: eigen-cam, score-cam or ablation-cam"
    )
    if not record.logits.requires_grad:
        raise no_path
    logits, cotangent = record.logits, cotangent.to(record.logits)
    gradients = torch.autograd.grad(
        logits, activations, cotangent, retain_graph=again, allow_unused=True
    )
    if any(gradient is None for gradient in gradients):
        raise no_path
    return list(gradients)
