"""Borrow a network for a forward pass and keep the outputs of its layers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, suggest
from ..networks.eval_mode import eval_mode
from ..networks.unwrap import COMPILED_MODULE


@dataclass(frozen=True)
class ForwardRecord:
    """The logits of one forward pass, and the activations that were kept."""

    logits: Tensor  # (N, K)
    activations: dict[str, Tensor]  # layer -> (N, C, h, w)
    linear: tuple[nn.Linear, Tensor, Tensor] | None  # the last one: module, input, output


@contextmanager
def borrow(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients and uncompiled, and then back.

    It works inside `torch.no_grad` and `torch.inference_mode` too. Compiled modules run eagerly, as
    they would not call hooks registered after compilation. Autocast stays as the caller has it, but
    for its cache: the caller's next training step must not use weights cast without gradients.
    """
    compiled = any(
        COMPILED_MODULE in module._modules or module._compiled_call_impl is not None
        for module in model.modules()
    )
    eager: AbstractContextManager[Any] = (
        torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    )
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

    With `graph`, autograd records from the first of the layers on, so that gradients of what is
    kept can be taken. The last linear layer is then kept too, for the closed form.

    Each layer hands on a copy of its output, so that an in-place operation behind it, as of a ReLU,
    does not change what is kept. A layer that runs twice is kept as of its last run.

    Raises:
        UsageError: one of the layers has no map, or the network does not return logits.
    """
    activations: dict[str, Tensor] = {}
    linears: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if not (isinstance(output, Tensor) and output.ndim == 4):
            return None
        if not graph:
            activations[name] = output.clone()
            return None
        torch.set_grad_enabled(True)  # until the end of the pass
        kept = output if output.requires_grad else output.detach().requires_grad_()
        activations[name] = kept
        return kept.clone()

    def keep_linear(module: nn.Linear, args: Any, output: Tensor) -> Tensor | None:
        if not (args and output.requires_grad):
            return None
        linears[:] = [(module, args[0], output)]
        return output.clone()

    hooks: list[tuple[nn.Module, Any]] = [
        (module, partial(keep, name)) for name, module in layers.items()
    ]
    if graph:
        hooks += [(m, keep_linear) for m in model.modules() if isinstance(m, nn.Linear)]
    logits = run(model, images, hooks)
    check_logits(model, logits, len(images))
    if missing := [name for name in layers if name not in activations]:
        problem = f"layer {missing[0]!r} puts out no map (N, C, h, w)"
        raise no_map(model, images[:1], problem, missing[0])
    activations = {name: activations[name] for name in layers}
    return ForwardRecord(logits, activations, linears[0] if linears else None)


def run(model: nn.Module, images: Tensor, hooks: Iterable[tuple[nn.Module, Any]] = ()) -> Any:
    """Return the network's output for `images`, with forward hooks for the time of the pass.

    On a CPU the images go in as channels_last, which is faster. Convolutions and pooling take the
    layout of their input, so no weight has to be changed. A network that fails on it, as it views a
    map with other strides, gets the images as they are.
    """
    with ExitStack() as registered, torch.no_grad():
        for module, hook in hooks:
            registered.callback(module.register_forward_hook(hook).remove)
        if images.device.type == "cpu" and any(isinstance(m, nn.Conv2d) for m in model.modules()):
            try:
                with torch.no_grad():
                    return model(images.contiguous(memory_format=torch.channels_last))
            except RuntimeError:
                pass  # an error of another cause is raised again below
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


def is_pool(module: nn.Module) -> bool:
    """Return whether the class of a module is named as a pooling layer."""
    return "Pool" in type(module).__name__


def find_layers(
    model: nn.Module, names: Sequence[str] | str | None, image: Tensor
) -> dict[str, nn.Module]:
    """Return the layers of these names.

    None takes the last layer with a map of more than one cell that is not a pooling layer. A name
    may carry the prefix of a wrapper. `image` (1, C, H, W) runs through the network only if needed.
    """
    known = named_layers(model)
    if names is None:
        sizes = map_sizes(model, known, image)
        fit = [name for name, size in sizes.items() if size > 1 and not is_pool(known[name])]
        if not fit:
            problem = "no layer has a map (N, C, h, w) of more than one cell"
            raise no_map(model, image, problem)
        return {fit[-1]: known[fit[-1]]}
    layers = {}
    for name in [names] if isinstance(names, str) else names:
        path = name
        while path not in known and path.startswith(("module.", f"{COMPILED_MODULE}.")):
            path = path.partition(".")[2]
        if path not in known:
            raise no_map(model, image, f"there is no layer {name!r}", name)
        layers[name] = known[path]
    if not layers:
        raise UsageError("layers is empty; name at least one, or leave it out for the last layer")
    return layers


def map_sizes(model: nn.Module, layers: Mapping[str, nn.Module], image: Tensor) -> dict[str, int]:
    """Return the number of cells of each layer's map, in the order in which the layers finish."""
    sizes: dict[str, int] = {}

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            sizes.pop(name, None)
            sizes[name] = output.shape[2] * output.shape[3]

    run(model, image, [(module, partial(note, name)) for name, module in layers.items()])
    return sizes


def no_map(model: nn.Module, image: Tensor, problem: str, name: str = "") -> UsageError:
    """Return an error that lists the layers with maps, and suggests one that resembles `name`."""
    names = sorted(map_sizes(model, named_layers(model), image), key=lambda path: path.count("."))
    valid = ", ".join(names[:12]) + (f", ... {len(names)} in all" if len(names) > 12 else "")
    hint = suggest(name, names)
    return UsageError(
        f"{type(model).__name__}: {problem}{hint} (layers with a map: {valid or 'none'})"
    )


def layer_gradients(record: ForwardRecord, cotangent: Tensor, *, again: bool) -> list[Tensor]:
    """Return d(cotangent . logits) / d(activations), (N, K) -> a tensor for each layer.

    The backward pass stops at the earliest layer, and no gradient of a weight is computed.
    `again`: there will be another call.
    """
    gradients: tuple[Tensor | None, ...] = (None,)
    if record.logits.requires_grad:
        gradients = torch.autograd.grad(
            record.logits,
            list(record.activations.values()),
            cotangent.to(record.logits),
            retain_graph=again,
            allow_unused=True,
        )
    connected = [gradient for gradient in gradients if gradient is not None]
    if len(connected) < len(gradients):
        raise UsageError(
            f"no gradient leads from the logits to {', '.join(record.activations)}; "
            "use a method without gradients: eigen-cam, score-cam or ablation-cam"
        )
    return connected
