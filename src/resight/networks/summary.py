"""The layers of a network as a table, measured by running one blank image through it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UsageError
from .eval_mode import eval_mode
from .unwrap import match_weights

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerRow:
    """One call of one module, for one image."""

    path: str  # as in model.get_submodule; "" is the whole network
    kind: str  # class name
    output_shape: tuple[int, ...]  # without the batch dimension
    map_size: tuple[int, int] | None  # (H, W) px; None where the output is no map
    receptive_field: int | None  # px, longer side of the image region that one output sees
    parameters: int
    flop: int  # forward

    @property
    def depth(self) -> int:
        """The depth of the layer: 0 is the whole network, 1 its stages."""
        return self.path.count(".") + 1 if self.path else 0


def layer_table(model: nn.Module, input_shape: tuple[int, int, int]) -> list[LayerRow]:
    """Return a row for the network, its stages, and layers with weights or another output shape.

    Rows are in the order in which the layers start, so a stage comes before its layers. A row
    counts everything inside it: add up rows of one depth only, or read the totals in row 0. A layer
    called twice has two rows; its parameters count in the first.

    FLOP are those of convolutions and matrix products, two for a multiply-add, in the forward pass
    of one image. The receptive field is that of the longest path: each convolution or pooling with
    kernel k and dilation d adds (k - 1) d times the strides before it, and where branches meet the
    larger one counts. It can exceed the image. Normalization adds nothing, although layer and group
    norm look at the whole map; an operation whose geometry is not known is taken to look at the
    whole map, as global pooling does.

    `input_shape`: (C, H, W). Any module that maps (N, C, H, W) to one tensor will do. It runs in
    evaluation mode, without gradients, and is given back as it was, also when its forward pass
    raises. UsageError: it does not return a tensor.
    """
    image = match_weights(torch.zeros(1, *input_shape), model)
    recorder = _RowRecorder(image)
    with ExitStack() as borrowed:
        borrowed.enter_context(eval_mode(model))
        for path, module in model.named_modules():
            if "." not in path or not any(module.children()):
                end = partial(recorder.end, path)
                borrowed.callback(module.register_forward_pre_hook(recorder.start).remove)
                borrowed.callback(module.register_forward_hook(end).remove)
        for context in (recorder.flops, recorder.fields):
            borrowed.enter_context(context)
        output = model(image)
    if not isinstance(output, Tensor):
        raise UsageError(
            f"{type(model).__name__} returns {type(output).__name__}; "
            "a network here must return one tensor of logits (N, classes)"
        )
    return [row for row in recorder.rows if row is not None]


class _RowRecorder:
    """Makes a row of each call of a module, from a hook at its start and one at its end."""

    def __init__(self, image: Tensor) -> None:
        self.fields, self.flops = _ReceptiveFields(image), FlopCounterMode(display=False)
        self.rows: list[LayerRow | None] = []  # None: still running, or not worth a row
        self._running: list[tuple[int, int]] = []  # (row, FLOP before it) of each open module
        self._counted: set[nn.Module] = set()  # modules whose parameters are in a row

    def start(self, module: nn.Module, args: Any) -> None:
        self._running.append((len(self.rows), self.flops.get_total_flops()))
        self.rows.append(None)

    def end(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        index, flop_before = self._running.pop()
        if not isinstance(output, Tensor) or not _worth_a_row(path, module, args, output):
            return
        parameters = sum(p.numel() for p in module.parameters())
        self.rows[index] = LayerRow(
            path=path,
            kind=type(module).__name__,
            output_shape=tuple(output.shape[1:]),
            map_size=_map_size(output),
            receptive_field=self.fields.size_of(output),
            parameters=0 if module in self._counted else parameters,
            flop=self.flops.get_total_flops() - flop_before,
        )
        self._counted.add(module)


def _worth_a_row(path: str, module: nn.Module, args: Any, output: Tensor) -> bool:
    """Whether it is the network, a stage or a layer that does more than an activation."""
    if path == "" or any(module.children()) or any(True for _ in module.parameters()):
        return True
    return not (args and isinstance(args[0], Tensor) and args[0].shape == output.shape)


def _map_size(tensor: Tensor) -> tuple[int, int] | None:
    return (tensor.shape[2], tensor.shape[3]) if tensor.ndim == 4 else None


class _Axis(NamedTuple):
    size: int  # px of the image that one place of a map looks at
    jump: int  # px of the image between neighboring places

    def window(self, kernel: int, stride: int, dilation: int) -> "_Axis":
        return _Axis(self.size + (kernel - 1) * dilation * self.jump, self.jump * stride)


_Field = tuple[_Axis, _Axis]  # along H, along W


class _ReceptiveFields(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the receptive field from the image through every operation.

    Operations rather than modules, as the sum of two branches is usually written as `a + b`, which
    no module sees.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        start = (_Axis(size=1, jump=1), _Axis(size=1, jump=1))
        # By id, as tensors compare by element; the tensor is kept so that no id comes back.
        self.known: dict[int, tuple[Tensor, _Field]] = {id(image): (image, start)}

    def size_of(self, tensor: Tensor) -> int | None:
        """The longer side; None where `tensor` does not come from the image."""
        known = self.known.get(id(tensor))
        return None if known is None else max(axis.size for axis in known[1])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        sources = [self.known[id(t)] for t in _tensors(args) if id(t) in self.known]
        results = func(*args, **(kwargs or {}))
        for result in _tensors(results):
            fields = [_through(func, args, t, field, result) for t, field in sources]
            if fields:
                self.known[id(result)] = (result, _largest(fields))
        return results


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _largest(fields: list[_Field]) -> _Field:
    along_h, along_w = (
        _Axis(max(axis.size for axis in axes), max(axis.jump for axis in axes))
        for axes in zip(*fields, strict=True)
    )
    return along_h, along_w


def _through(
    func: Any, args: tuple[Any, ...], source: Tensor, field: _Field, result: Tensor
) -> _Field:
    """The receptive field of `result = func(*args)` along the path through `source`."""
    before = _map_size(source)
    if before is None:  # flattened
        return field
    match func.overloadpacket:
        case aten.convolution if not args[6]:  # not transposed
            return _slide(field, args[1].shape[2:], args[3], args[5])
        case aten.max_pool2d_with_indices:
            return _slide(field, args[1], _argument(args, 2) or args[1], _argument(args, 4) or [1])
        case aten.avg_pool2d:
            return _slide(field, args[1], _argument(args, 2) or args[1], [1])
        case aten.slice if args[1] % 4 >= 2:  # rows or columns
            steps = [1, 1]
            steps[args[1] % 4 - 2] = _argument(args, 4) or 1
            return _slide(field, [1], steps, [1])
        case aten.constant_pad_nd | aten.reflection_pad2d | aten.replication_pad2d:
            return field
    return field if before == _map_size(result) else _slide(field, before, [1], [1])


def _argument(args: tuple[Any, ...], index: int) -> Any:
    """The argument at `index`, or None: torch omits those at the end that have their default."""
    return args[index] if len(args) > index else None


def _slide(
    field: _Field, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> _Field:
    """Move a window over the map; one number stands for both sides."""
    h, w = field
    return (
        h.window(kernel[0], stride[0], dilation[0]),
        w.window(kernel[-1], stride[-1], dilation[-1]),
    )
