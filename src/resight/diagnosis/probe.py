"""Your model, optimizer, loss and batches, and what one forward and backward pass gave."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import UsageError
from ..lr_finder.batches import Pair, to_device
from ..lr_finder.references import OutputKind, output_kind
from ..networks.outputs import LossFunction, apply_loss, take_logits
from ..networks.unwrap import check_differentiable, device_of, unwrap
from ..training.restore import seed_everything
from .issues import Skipped
from .samples import first_tensor, labeled_pair, some_rows

MAX_BATCHES, MAX_IMAGES = 4, 256  # that are checked: batches, and images of the first batch
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # whose outputs are sums of weights
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Trace:
    """What happened while a batch went through the network."""

    calls: list[str] = field(default_factory=list)  # layers with weights, in the order of calls
    first_input: Tensor | None = None  # of the first of them
    idle_dropout: dict[str, None] = field(default_factory=dict)  # names that were not called


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """What the checks of a training look at; outputs are logits (B, K), detached."""

    model: nn.Module  # without the wrappers of DDP and torch.compile
    optimizer: Optimizer
    loss_fn: LossFunction
    scheduler: Any = None
    steps: int | None = None
    step: Any = None  # (inputs, labels): one step of the user's loop
    source: Any  # the batches as they were passed in
    val_batches: Any = None
    batches: tuple[Pair, ...]  # inputs and labels, where they lie
    was_training: bool  # the mode of the model before
    tracked: int  # batches that batch norm had counted before
    inputs: Any  # of the first batch, on the model's device
    targets: Any
    outputs: Tensor  # for these inputs, in training mode
    gradients: dict[str, Tensor | None]  # name of each trainable parameter -> its gradient
    unregistered: tuple[tuple[int, ...], ...]  # shapes of weights that no module has
    trace: Trace

    @property
    def images(self) -> Tensor:
        """The first tensor (N, C, H, W) of the first batch, else its first tensor."""
        return first_tensor(self.inputs)

    @property
    def last_layer(self) -> Any:
        """The linear or convolutional layer that was called last; None if there is none."""
        modules = (self.model.get_submodule(name) for name in reversed(self.trace.calls))
        return next((module for module in modules if isinstance(module, LAYERS)), None)

    @property
    def labels(self) -> Tensor:
        """The class (B,) of each image that gave `outputs`.

        Raises:
            Skipped: labels are no class numbers, or outputs not a row of classes an image.
        """
        if not has_class_rows(self.outputs) or not are_class_numbers(self.targets):
            raise Skipped("needs outputs (N, K) and a class number an image")
        labels: Tensor = self.targets
        return labels

    @property
    def counted(self) -> Tensor:
        """Whether the loss counts each image (B,): not, if its label is the one to ignore."""
        return self.labels != ignored_label(self.loss_fn)

    @cached_property
    def kind(self) -> OutputKind:
        """What the outputs look like."""
        return output_kind(self.outputs.float())

    def is_better_than_guessing(self, share: float = 0.75) -> bool:
        """Whether cross entropy is below a share of the labels' entropy, as guessing is not."""
        try:
            labels = self.labels[self.counted].long()
        except Skipped:
            return False
        shares = torch.bincount(labels) / max(1, len(labels))
        logits = self.outputs[self.counted].float()
        logits = logits.log() if self.kind == "probabilities" else logits
        entropy = float(torch.special.entr(shares).sum())
        return float(F.cross_entropy(logits, labels)) < share * entropy

    @cached_property
    def validation(self) -> tuple[Pair, ...]:
        """The first batches of validation.

        Raises:
            Skipped: there are none.
        """
        if self.val_batches is None:
            raise Skipped("needs val_batches=")
        return tuple(map(labeled_pair, islice(self.val_batches, MAX_BATCHES)))

    def loss_of(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the loss of outputs that need not be the model's."""
        with torch.no_grad():
            return float(self.loss_fn(outputs, labels))


def run_probe(
    model: nn.Module, optimizer: Optimizer, loss_fn: LossFunction, batches: Iterable[Any]
) -> Probe:
    """Pass the first batch forward and backward; the caller restores the state of everything.

    Raises:
        UsageError: batches that are not (inputs, labels), or a loss that is not one number.
    """
    model = unwrap(model)
    check_differentiable(model)
    device = device_of(model, torch.device("cpu"))
    seed_everything(0, device)
    pairs = tuple(map(labeled_pair, islice(batches, MAX_BATCHES)))
    if not pairs:
        raise UsageError("batches is empty; diagnosing needs at least one batch")
    inputs, targets = (to_device(some_rows(part, slice(MAX_IMAGES)), device) for part in pairs[0])
    counts = (int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked"))
    tracked, was_training = max(counts, default=0), model.training
    if not was_training:  # otherwise, a part that is frozen in evaluation mode stays so
        model.train()
    _check_size(model, first_tensor(inputs))
    with _traced(model) as trace:
        result = model(inputs)
    outputs, _ = take_logits(result)
    _check_labels(outputs, [labels for _, labels in pairs], ignored_label(loss_fn))
    loss, _ = apply_loss(loss_fn, result, targets)
    unregistered = _unregistered(loss, model, loss_fn, inputs)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    return Probe(
        model=model,
        optimizer=optimizer,
        loss_fn=loss_fn,
        source=batches,
        batches=pairs,
        was_training=was_training,
        tracked=tracked,
        inputs=inputs,
        targets=targets,
        outputs=outputs.detach(),
        gradients={n: p.grad for n, p in model.named_parameters() if p.requires_grad},
        unregistered=unregistered,
        trace=trace,
    )


def has_class_rows(outputs: Tensor) -> bool:
    """Whether outputs are (N, K), a number for each of at least two classes."""
    return outputs.ndim == 2 and outputs.shape[1] >= 2


def are_class_numbers(labels: Any) -> bool:
    """Whether labels are one class number an image, not shares of classes."""
    return isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()


def ignored_label(loss_fn: LossFunction) -> int:
    """Return the label that a loss ignores; torch's is -100."""
    return int(getattr(loss_fn, "ignore_index", -100))


def _check_labels(outputs: Tensor, batches_of_labels: list[Any], ignored: int) -> None:
    """Refuse labels for which a loss raises an error, on a GPU one that ends the process."""
    if not has_class_rows(outputs):
        return
    classes = outputs.shape[1]
    for labels in filter(are_class_numbers, batches_of_labels):
        outside = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
        if len(outside):
            raise UsageError(
                f"label {int(outside[0])} is none of the model's {classes} classes, 0 to "
                f"{classes - 1}; number classes from 0 and give the model an output for each"
            )


def _check_size(model: nn.Module, images: Tensor) -> None:
    norms = any(isinstance(m, BATCH_NORMS) and m.training for m in model.modules())
    if norms and len(images) == 1:
        raise UsageError(
            "the first batch has 1 image, over which batch norm has no statistics; give batches of "
            "several images"
        )


def _unregistered(
    loss: Tensor, model: nn.Module, loss_fn: Any, inputs: Any
) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the weights that the loss depends on and that no module has."""
    known = {id(p) for p in model.parameters()} | {id(first_tensor(inputs))}
    known |= {id(p) for p in getattr(loss_fn, "parameters", list)()}
    pending, nodes, shapes = [loss.grad_fn], set(), []
    while pending:
        node = pending.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        variable = getattr(node, "variable", None)  # of a leaf
        if variable is not None and id(variable) not in known:
            shapes.append(tuple(variable.shape))
        pending += [parent for parent, _ in node.next_functions]
    return tuple(sorted(shapes))


@contextmanager
def _traced(model: nn.Module) -> Iterator[Trace]:
    """Yield a trace that fills while the model is called."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, DROPOUT) and m.p > 0}
    trace = Trace(idle_dropout=dict.fromkeys(layers))

    def enter(name: str, inputs: tuple[Any, ...]) -> None:
        if not trace.calls and inputs and isinstance(inputs[0], Tensor):
            trace.first_input = inputs[0].detach()
        trace.calls.append(name)

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_hook(
                lambda *_, name=name: trace.idle_dropout.pop(name, None)
            )
            hooks.callback(hook.remove)
        for name, module in model.named_modules():
            if isinstance(getattr(module, "weight", None), Tensor):
                hook = module.register_forward_pre_hook(
                    lambda _, inputs, name=name: enter(name, inputs)
                )
                hooks.callback(hook.remove)
        yield trace
