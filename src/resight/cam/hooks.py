"""Borrow a network for a forward pass and keep the outputs of its layers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..networks.eval_mode import eval_mode
from ..networks.outputs import take_logits
from ..networks.unwrap import COMPILED_MODULE


@dataclass(frozen=True)
class ClassLogits:
    """A logit for each class, as a network returned them."""

    values: Tensor  # (N, K); (-z, z) of a network with one logit z
    single: bool  # whether the network has one logit, which speaks for class 1 and against class 0
    note: str  # where they were in what the network returned, or ""


@dataclass(frozen=True)
class ForwardRecord:
    """The logits of one forward pass, and the activations that were kept."""

    classes: ClassLogits
    activations: dict[str, Tensor]  # layer -> its output: (N, C, h, w), (N, h, w, C) or (N, T, C)
    linear: tuple[nn.Linear, Tensor, Tensor] | None  # the last one: module, input, output

    @property
    def logits(self) -> Tensor:
        """(N, K)."""
        return self.classes.values


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
    model: nn.Module,
    images: Tensor,
    layers: Mapping[str, nn.Module],
    *,
    graph: bool,
    hooks: Sequence[tuple[nn.Module, Any]] = (),
) -> ForwardRecord:
    """Run a bare, borrowed network and keep the output of those `layers` that may have a map.

    With `graph`, autograd records from the first of the layers on, so that gradients of what is
    kept can be taken. The last linear layer is then kept too, for the closed form. `hooks` see the
    outputs first.

    Each layer hands on a copy of its output, so that an in-place operation behind it, as of a ReLU,
    does not change what is kept. A layer that runs twice is kept as of its last run.

    Raises:
        UsageError: the network does not return logits.
    """
    activations: dict[str, Tensor] = {}
    linears: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if not (isinstance(output, Tensor) and output.ndim in (3, 4)):
            return None
        if len(output) != len(images) or not output.is_floating_point():
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

    kept_layers = [(module, partial(keep, name)) for name, module in layers.items()]
    linear_layers = [(m, keep_linear) for m in model.modules() if graph and type(m) is nn.Linear]
    classes = run_logits(model, images, [*hooks, *kept_layers, *linear_layers])
    return ForwardRecord(classes, activations, linears[0] if linears else None)


def run_logits(
    model: nn.Module, images: Tensor, hooks: Iterable[tuple[nn.Module, Any]] = ()
) -> ClassLogits:
    """Return the logits of a network for `images`, with forward hooks for the time of the pass.

    Raises:
        UsageError: the network did not return one row of logits an image.
    """
    logits, note = take_logits(run(model, images, hooks))
    if logits.ndim != 2 or len(logits) != len(images):
        raise UsageError(
            f"{type(model).__name__} returns {tuple(logits.shape)} for {len(images)} images; heat "
            f"maps need a network that returns logits ({len(images)}, classes)"
        )
    single = logits.shape[1] == 1
    if single:
        with torch.set_grad_enabled(logits.requires_grad):
            logits = torch.cat([-logits, logits], dim=1)  # (N, 2)
    return ClassLogits(logits, single, note)


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


def layer_gradients(record: ForwardRecord, cotangent: Tensor, *, again: bool) -> list[Tensor]:
    """Return d(cotangent . logits) / d(activations), (N, K) -> a tensor like each activation.

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
