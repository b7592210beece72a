"""The layers to look at: those that are named, the last with a map, one for each map size."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..errors import UsageError, suggest
from ..networks.unwrap import COMPILED_MODULE, match_weights, unwrap
from .hooks import ForwardRecord, borrow, forward
from .layouts import LAYOUTS, Grid, LayerOutputs, Layout

Layer: TypeAlias = str | int | nn.Module

# The side of a map of `default_layers`: at most this share of the image's, at least these cells.
MAX_SIDE_SHARE, MIN_SIDE_CELLS = 3 / 4, 3


def default_layers(model: nn.Module, shape: Sequence[int]) -> tuple[str, ...]:
    """Return the outermost layer of each map size, from 3/4 of the image's side down to 3 cells.

    Of several such layers the last counts: mostly the end of a stage. Larger maps show edges and
    colors, and say little about a class; a smaller map does not say where. Pooling, padding and
    layers whose map does not reach the logits are passed over. Of tokens, which have one size from
    the first block to the last, the last layer counts. The result is empty if no layer has such a
    map. `shape` is (C, H, W).
    """
    network = unwrap(model)
    generator = torch.Generator().manual_seed(0)
    image = match_weights(torch.randn(1, *shape, generator=generator), network)
    with borrow(network, image.device):
        outputs, names = _layers_with_maps(network, image, None)
    max_cells = MAX_SIDE_SHARE**2 * shape[1] * shape[2]
    chosen: dict[int, str] = {}
    for name in names:  # in the order in which they finish
        grid = outputs.grid(name)
        if grid is None or not MIN_SIDE_CELLS**2 <= grid.cells <= max_cells:
            continue
        before = chosen.get(grid.cells, name)
        if grid.layout == "tokens" or name.count(".") <= before.count("."):
            chosen[grid.cells] = name
    return tuple(name for _, name in sorted(chosen.items(), reverse=True))


def check_layers(model: nn.Module, names: Sequence[str], shape: Sequence[int]) -> None:
    """Raise UsageError unless each of these layers has a map for an image of `shape` (C, H, W)."""
    network = unwrap(model)
    image = match_weights(torch.zeros(1, *shape), network)
    with borrow(network, image.device):
        outputs = _run_once(network, image, None)
        layer_grids(network, outputs, find_layers(network, names, image, None))


def find_layers(
    model: nn.Module, layers: Sequence[Layer] | Layer | None, image: Tensor, layout: Layout | None
) -> dict[str, nn.Module]:
    """Return the layers of a borrowed network by name.

    A layer is named by its path, which may carry the prefix of a wrapper, by its index in an
    `nn.Sequential`, or by itself. None takes the last layer with a map of more than one cell that
    reaches the logits; pooling and padding are passed over. `image` (1, C, H, W) runs through the
    network only if needed.
    """
    known = named_layers(model)
    if layers is None:
        outputs, names = _layers_with_maps(model, image, layout, last=True)
        if not names:
            problem = "no layer has a map (N, C, h, w) of more than one cell"
            raise _no_map(model, outputs, problem)
        layer_grids(model, outputs, names[-1:])
        return {names[-1]: known[names[-1]]}
    several = [layers] if isinstance(layers, str | int | nn.Module) else layers
    if not several:
        raise UsageError("layers is empty; name at least one, or leave it out for the last layer")
    paths = {_name_of(layer, known): layer for layer in several}
    for name in paths:
        if _bare(name, known) not in known:
            problem = f"there is no layer {name!r}"
            raise _no_map(model, _run_once(model, image, layout), problem, name)
    return {name: known[_bare(name, known)] for name in paths}


def layer_grids(model: nn.Module, outputs: LayerOutputs, names: Iterable[str]) -> dict[str, Grid]:
    """Return the grid of the map of each layer; raise UsageError if one is not recognized."""
    grids = {}
    for name in names:
        path = _bare(name, outputs.shapes)
        grid = outputs.grid(path, outputs.layout)
        if grid is None:
            raise _no_map(model, outputs, _problem(outputs, path), path)
        grids[name] = grid
    return grids


def recorders(model: nn.Module, outputs: LayerOutputs) -> list[tuple[nn.Module, partial[None]]]:
    """Return forward hooks that take the output of every layer down in `outputs`."""
    layers = named_layers(model).items()
    return [(module, partial(outputs.record, name)) for name, module in layers]


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every layer of a bare network by its path, without the names torch.compile adds.

    Scripted layers take no hooks and are left out.
    """
    paths = ((path.split("."), module) for path, module in model.named_modules() if path)
    return {
        ".".join(part for part in path if part != COMPILED_MODULE): module
        for path, module in paths
        if path[-1] != COMPILED_MODULE and not isinstance(module, torch.jit.ScriptModule)
    }


def _name_of(layer: Layer, known: Mapping[str, nn.Module]) -> str:
    if isinstance(layer, nn.Module):
        for name, module in known.items():
            if unwrap(module) is unwrap(layer):
                return name
        raise UsageError(f"the {type(layer).__name__} in layers is no layer of the model; name one")
    if isinstance(layer, str | int) and not isinstance(layer, bool):
        return str(layer)
    raise UsageError(f"layers holds {layer!r}; give names, modules, or indices of an nn.Sequential")


def _bare(name: str, known: Mapping[str, object]) -> str:
    """The name without the prefixes of wrappers."""
    while name not in known and name.startswith(("module.", f"{COMPILED_MODULE}.")):
        name = name.partition(".")[2]
    return name


def _run_once(model: nn.Module, image: Tensor, layout: Layout | None) -> LayerOutputs:
    outputs, image = LayerOutputs((2, *image.shape[1:]), layout), image.repeat(2, 1, 1, 1)
    forward(model, image, {}, graph=False, hooks=recorders(model, outputs))
    return outputs


def _layers_with_maps(
    model: nn.Module, image: Tensor, layout: Layout | None, *, last: bool = False
) -> tuple[LayerOutputs, list[str]]:
    """The outputs of all layers, and those with a map that reaches the logits, as they finish.

    A class token alone reaches the logits from the last block of a transformer: there the cells of
    the tokens have no gradient, and the map would be 0. Linear layers of tokens are passed over, as
    most are queries, keys and values. With `last`, the list ends as it would, but may begin later.
    """
    outputs, known = LayerOutputs((2, *image.shape[1:]), layout), named_layers(model)
    twice = image.repeat(2, 1, 1, 1)  # what has one row is no map of an image, as a table of biases
    record = forward(model, twice, known, graph=True, hooks=recorders(model, outputs))
    names = []
    for name in outputs.shapes:
        module, layouts, grid = known[name], outputs.layouts(name), outputs.grid(name)
        passed_over = is_between(module) or ("tokens" in layouts and isinstance(module, nn.Linear))
        if layouts and not passed_over and (grid is None or grid.cells > 1):
            names.append(name)
    # Where the last linear layer is zero, as a new head may be, its input stands for the logits.
    for end in (record.logits, None if record.linear is None else record.linear[1]):
        for count in (4, 32, len(names)) if last else (len(names),):  # from the end it is short
            if reaching := _reaching(end, record, outputs, names[-count:]):
                return outputs, reaching
    return outputs, names


def _reaching(
    end: Tensor | None, record: ForwardRecord, outputs: LayerOutputs, names: list[str]
) -> list[str]:
    """Those of the layers from whose cells a gradient leads to `end`."""
    if end is None or not end.requires_grad or not names:
        return []
    cotangent = torch.randn(end.shape, generator=torch.Generator().manual_seed(0))
    kept = [record.activations[name] for name in names]
    gradients = torch.autograd.grad(
        end, kept, cotangent.to(end), retain_graph=True, allow_unused=True
    )
    reaching = []
    for name, gradient in zip(names, gradients, strict=True):
        grid = outputs.grid(name)
        if gradient is not None and (grid.map_of(gradient) if grid else gradient).any():
            reaching.append(name)
    return reaching


def is_between(module: nn.Module) -> bool:
    """Return whether a module, by the name of its class, pools or pads what a layer before made."""
    return "Pool" in type(module).__name__ or "Pad" in type(module).__name__


def _problem(outputs: LayerOutputs, name: str) -> str:
    """Why a layer has no map."""
    shape = outputs.shapes.get(name)
    if shape is None:
        return f"layer {name!r} does not run in a forward pass"
    if len(shape) not in (2, 3):
        return f"layer {name!r} puts out no map (N, C, h, w)"
    output = f"layer {name!r} puts out {shape} for an image"
    if outputs.layout:
        return f"{output}, which is no map in {outputs.layout}"
    if len(layouts := outputs.layouts(name)) > 1:
        return f"{output}, a map in {' as well as in '.join(sorted(layouts))}; say which by layout="
    return f"{output}, not recognized as a map; if it is one, give layout= ({', '.join(LAYOUTS)})"


def _no_map(model: nn.Module, outputs: LayerOutputs, problem: str, name: str = "") -> UsageError:
    """Return an error that lists the layers with maps, and suggests one that resembles `name`."""
    names = [path for path in outputs.shapes if outputs.grid(path)]
    names.sort(key=lambda path: path.count("."))
    valid = ", ".join(names[:12]) + (f", ... {len(names)} in all" if len(names) > 12 else "")
    hint = suggest(name, names)
    return UsageError(
        f"{type(model).__name__}: {problem}{hint} (layers with a map: {valid or 'none'})"
    )
