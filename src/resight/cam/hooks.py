"""Borrow a network for a forward pass and keep what layers put out; it comes back as it was."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, suggest
from ..networks.eval_mode import eval_mode
from ..networks.unwrap import _COMPILED


@dataclass
class Pass:
    """One forward pass: its logits, and what was kept on the way to them."""

    logits: Tensor = field(default_factory=lambda: torch.empty(0))  # (N, K)
    activations: dict[str, Tensor] = field(default_factory=dict)  # layer -> (N, C, h, w)
    linear: tuple[nn.Linear, Tensor, Tensor] | None = None  # the last one: module, input, output


@contextmanager
def borrow(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradients, nothing compiled, whatever mode the caller is in.

    A compiled module would not call hooks that it did not know when it was compiled. Autocast stays
    as the caller has it, but for its cache: copies of weights made here, without gradients, must
    not be used by the caller's next training step.
    """
    compiled = any(
        _COMPILED in module._modules or module._compiled_call_impl is not None
        for module in model.modules()
    )
    eager: AbstractContextManager[Any] = nullcontext()
    if compiled:
        eager = torch.compiler.set_stance("force_eager")
    kind = device.type
    lent = torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
    with torch.inference_mode(False), eval_mode(model), eager, lent:
        yield


def forward(
    model: nn.Module, images: Tensor, layers: Mapping[str, nn.Module], *, graph: bool
) -> Pass:
    """Run a bare, borrowed network and keep the output of `layers`.

    With `graph`, autograd records from the first of the layers on, not before, and what is kept
    can be differentiated by. Then the last linear layer is kept too, for the closed form.

    Each layer hands on a copy of what is kept, so that an in-place operation behind it, as of a
    ReLU, does not change it. A layer that runs twice is kept as of its last run.
    """
    done = Pass()

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if not (isinstance(output, Tensor) and output.ndim == 4):
            return None
        if not graph:
            done.activations[name] = output.clone()
            return None
        torch.set_grad_enabled(True)  # until the end of the pass
        kept = output if output.requires_grad else output.detach().requires_grad_()
        done.activations[name] = kept
        return kept.clone()

    def keep_linear(module: nn.Linear, args: Any, output: Tensor) -> Tensor | None:
        if not (args and output.requires_grad):
            return None
        done.linear = (module, args[0], output)
        return output.clone()

    with ExitStack() as hooks:
        for name, module in layers.items():
            hooks.callback(module.register_forward_hook(partial(keep, name)).remove)
        for module in model.modules() if graph else ():
            if isinstance(module, nn.Linear):
                hooks.callback(module.register_forward_hook(keep_linear).remove)
        done.logits = run(model, images)
    check_logits(model, done.logits, len(images))
    return done


def run(model: nn.Module, images: Tensor) -> Any:
    """The network's output. On a CPU the images go in as channels_last, which is faster there.

    Convolutions and pooling take the layout of their input, so no weight has to be changed. A
    network that cannot have it, as it views a map with strides of its own, gets the images as
    they are.
    """
    if images.device.type == "cpu" and any(isinstance(m, nn.Conv2d) for m in model.modules()):
        try:
            with torch.no_grad():
                return model(images.contiguous(memory_format=torch.channels_last))
        except RuntimeError:
            pass  # if it was something else, it is raised again
    with torch.no_grad():
        return model(images)


def check_logits(model: nn.Module, logits: Any, n: int) -> None:
    """UsageError where a network did not return one row of logits an image."""
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n:
        raise UsageError(
            f"{type(model).__name__} returns {shape} for {n} images; heat maps need a network that "
            f"returns logits ({n}, classes)"
        )


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer of a bare network by its path, without the names that torch.compile puts in."""
    paths = ((path.split("."), module) for path, module in model.named_modules() if path)
    return {
        ".".join(part for part in path if part != _COMPILED): module
        for path, module in paths
        if path[-1] != _COMPILED
    }


def find_layers(model: nn.Module, names: list[str] | None, image: Tensor) -> dict[str, nn.Module]:
    """The layers to look at, by the names that were asked for.

    None: the last layer with a map of more than one cell that is not a pooling layer. Names may
    carry the prefix of a wrapper. `image` (1, C, H, W) is run through the network only if needed.
    """
    known = named_layers(model)
    if names is None:
        sizes = map_sizes(model, known, image)
        fit = [n for n, size in sizes.items() if size > 1 and "Pool" not in type(known[n]).__name__]
        if not fit:
            raise no_map(model, "no layer has a map (N, C, h, w) of more than one cell", sizes)
        return {fit[-1]: known[fit[-1]]}
    found = {}
    for name in names:
        parts = name.split(".")
        while parts[0] in ("module", _COMPILED) and ".".join(parts) not in known:
            parts = parts[1:] or [""]
        if ".".join(parts) not in known:
            sizes = map_sizes(model, known, image)
            raise no_map(model, f"there is no layer {name!r}{suggest(name, sizes)}", sizes)
        found[name] = known[".".join(parts)]
    return found


def map_sizes(model: nn.Module, layers: Mapping[str, nn.Module], image: Tensor) -> dict[str, int]:
    """Cells of the map that each layer puts out, in the order in which they finish."""
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


def no_map(model: nn.Module, fault: str, sizes: Mapping[str, int]) -> UsageError:
    """The error that names the layers that do have maps, the outer ones first."""
    names = sorted(sizes, key=lambda name: name.count("."))
    shown = ", ".join(names[:12]) + (f", ... {len(names)} in all" if len(names) > 12 else "")
    return UsageError(f"{type(model).__name__}: {fault} (layers with a map: {shown or 'none'})")


def gradients_of(done: Pass, cotangent: Tensor, *, again: bool) -> list[Tensor]:
    """d(cotangent . logits) / d(what was kept), nothing else; (N, K) -> a tensor a layer.

    The backward pass stops at the earliest layer, and no gradient of a weight is worked out.
    `again`: there will be another call.
    """
    kept = list(done.activations.values())
    cut = UsageError(
        f"no gradient leads from the logits to {', '.join(done.activations)}; "
        "use a method without gradients: eigen-cam, score-cam or ablation-cam"
    )
    if not done.logits.requires_grad:
        raise cut
    found = torch.autograd.grad(
        done.logits, kept, cotangent.to(done.logits), retain_graph=again, allow_unused=True
    )
    if any(gradient is None for gradient in found):
        raise cut
    return list(found)
