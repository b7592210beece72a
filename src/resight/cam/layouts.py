"""The layout of a layer's output: which of its dimensions count the cells of a map.

An output is a map in channels_first (N, C, h, w) or channels_last (N, h, w, C), or the tokens
(N, prefix + h * w, C) of a transformer, where the prefix is a class token and registers. The shape
alone does not say which: (N, 8, 8, 8) is a map in two layouts, and attention weights
(N, heads, T, T) are none. What a layer is, and what other layers of the same pass make of the same
shape, says more.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor, nn

from ..errors import UsageError, suggest

Layout: TypeAlias = Literal["channels_first", "channels_last", "tokens"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

MAX_PREFIX = 5  # tokens before those of the cells: a class token and four registers
MAX_STRETCH = 1.5  # of a map's aspect against the image's, as small maps are rounded

_CHANNELS_FIRST = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.PixelShuffle),
)

Shape: TypeAlias = tuple[int, ...]  # of the output for one image


@dataclass(frozen=True)
class Grid:
    """Where the cells of a map are in the output of a layer."""

    layout: Layout
    height: int
    width: int
    prefix: int = 0  # tokens before those of the cells

    @property
    def cells(self) -> int:
        """The number of cells."""
        return self.height * self.width

    def map_of(self, output: Tensor) -> Tensor:
        """Return the map (N, C, h, w) in an output of this layout, as a view."""
        if self.layout == "channels_first":
            return output
        if self.layout == "tokens":
            cells = output[:, self.prefix :]
            output = cells.view(len(cells), self.height, self.width, -1)
        return output.permute(0, 3, 1, 2)

    def note(self, layer: str) -> str:
        """Return a line on how the output was read, or "" if it was a map as it is."""
        if self.layout == "channels_first":
            return ""
        if self.layout == "channels_last":
            return f"{layer}: read in channels_last, (N, h, w, C)"
        before = f", without the {self.prefix} before them" if self.prefix else ""
        return f"{layer}: tokens read as a grid of {self.height}x{self.width}{before}"


def check_layout(layout: Layout | None) -> Layout | None:
    """Return `layout`; raise UsageError unless it is None or one of `LAYOUTS`."""
    if layout is None or layout in LAYOUTS:
        return layout
    raise UsageError(
        f"layout = {layout!r}{suggest(str(layout), LAYOUTS)} (valid: {', '.join(LAYOUTS)})"
    )


class LayerOutputs:
    """The shapes of all layers' outputs in one forward pass, and the maps that they hold."""

    def __init__(self, images: Shape, layout: Layout | None) -> None:
        """Watch a pass of images (N, C, H, W); `layout`, if not None, is that of the maps."""
        self.layout = layout
        self.shapes: dict[str, Shape] = {}  # in the order in which the layers finish; () is no map
        self._images = images
        self._kinds: dict[str, Layout | None] = {}  # by what the layer is
        self._certain: dict[Shape, set[Layout]] = {images[1:]: {"channels_first"}}
        self._attention: set[str] = set()

    def record(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """Take down the output of a layer; the arguments are those of a forward hook."""
        fits = isinstance(output, Tensor) and output.is_floating_point()
        fits = fits and output.ndim > 1 and len(output) == self._images[0]
        shape: Shape = tuple(output.shape[1:]) if fits else ()
        self.shapes.pop(name, None)  # the last of several calls counts
        self.shapes[name], self._kinds[name] = shape, (kind := _kind(module, shape))
        if kind is None and len(shape) == 3 and _sums_to_one(output):
            self._attention.add(name)
        if kind:
            self._certain.setdefault(shape, set()).add(kind)
            source = args[0] if args else None
            if isinstance(source, Tensor) and source.ndim == len(shape) + 1:
                self._certain.setdefault(tuple(source.shape[1:]), set()).add(kind)

    def layouts(self, name: str) -> set[Layout]:
        """Return the layouts in which the output of a layer can be a map; two are ambiguous."""
        possible = self._possible(self.shapes.get(name, ()), self._kinds.get(name))
        if name in self._attention:
            return set()
        return possible & {self.layout} if self.layout else possible

    def grid(self, name: str, layout: Layout | None = None) -> Grid | None:
        """Return the grid of a layer's map, as recognized or in the layout given; None if none."""
        shape, layouts = self.shapes.get(name, ()), {layout} if layout else self.layouts(name)
        if len(layouts) != 1:
            return None
        (only,) = layouts
        if only == "tokens":
            return self._token_grid(shape[0]) if len(shape) == 2 else None
        if len(shape) != 3:
            return None
        height, width = shape[1:] if only == "channels_first" else shape[:2]
        return Grid(only, height, width)

    def _possible(self, shape: Shape, kind: Layout | None) -> set[Layout]:
        certain = {kind} if kind else self._certain.get(shape, set())
        if len(shape) == 2:
            return {"tokens"} if self._are_tokens(shape) else set()
        if len(shape) != 3 or certain == {"channels_first"}:
            return set(certain) if len(shape) == 3 else set()
        counts = {s[0] for s in self._certain if self._are_tokens(s)}
        fitting: set[Layout] = set()
        if self._covers_image(*shape[1:], counts):
            fitting.add("channels_first")
        if self._covers_image(*shape[:2], counts):
            fitting.add("channels_last")
        return certain & fitting if len(certain) == 1 else fitting

    def _are_tokens(self, shape: Shape) -> bool:
        """Whether (T, C) are tokens: as a layer takes or makes them, or as a map flattened."""
        if len(shape) != 2 or self._token_grid(shape[0]) is None:
            return False
        of_maps = any((h * w, c) == shape for c, h, w in self._maps())
        if self._certain.get(shape[::-1]):  # mixed along both: in one, the channels come first
            return of_maps
        return of_maps or "tokens" in self._certain.get(shape, set())

    def _maps(self) -> list[Shape]:
        """The shapes (C, h, w) that are certain to be maps."""
        return [s for s, layouts in self._certain.items() if "channels_first" in layouts]

    def _token_grid(self, count: int) -> Grid | None:
        """Return the grid of so many tokens, with the fewest before it; of ties that of a map."""
        grids = [
            Grid("tokens", h, w, count - h * w)
            for h, w in [*(s[1:] for s in self._maps()), *_patch_grids(*self._images[2:])]
            if min(h, w) > 1 and 0 <= count - h * w <= MAX_PREFIX
        ]
        return min(grids, key=lambda grid: grid.prefix, default=None)

    def _covers_image(self, height: int, width: int, counts: set[int]) -> bool:
        """Whether so many cells have the image's aspect, and are not tokens times tokens."""
        if counts & {height, width} and height * width not in counts:
            return False  # queries or weights of an attention
        if self._images[2] == self._images[3]:
            return height == width
        stretch = (height * self._images[3]) / (width * self._images[2])
        return 1 / MAX_STRETCH <= stretch <= MAX_STRETCH


@cache
def _patch_grids(height: int, width: int) -> list[tuple[int, int]]:
    """The rows and columns of square patches in an image, for each size of a patch, once each."""
    sizes = range(1, max(height, width) + 1)
    whole = [(height // size, width // size) for size in sizes]
    partial = [(-(-height // size), -(-width // size)) for size in sizes]
    return list(dict.fromkeys(whole + partial))


def _kind(module: nn.Module, shape: Shape) -> Layout | None:
    """Return the layout of the output that a layer of its class makes, None if it can be any."""
    last: Layout = "tokens" if len(shape) == 2 else "channels_last"
    if len(shape) not in (2, 3):
        return None
    if isinstance(module, _CHANNELS_FIRST):
        return "channels_first" if len(shape) == 3 else None
    if isinstance(module, nn.Linear):
        return last
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        size = module.normalized_shape
        # A subclass may permute before and after it: it norms the channels, wherever they are.
        if size == shape[-1:] and (type(module) in (nn.LayerNorm, nn.RMSNorm) or size != shape[:1]):
            return last
        if size == shape[:1] and size != shape[-1:] and len(shape) == 3:
            return "channels_first"
    order = getattr(module, "dims", ()) if type(module).__name__ == "Permute" else ()
    if tuple(order) == (0, 3, 1, 2):  # of torchvision's Permute
        return "channels_first"
    return "channels_last" if tuple(order) == (0, 2, 3, 1) else None


def _sums_to_one(output: Tensor) -> bool:
    """Whether the rows of square matrices (T, T) are shares, as the weights of an attention."""
    if output.shape[-1] != output.shape[-2] or not output.numel():
        return False
    first = output[0].detach().float()
    return bool((first >= 0).all() and ((first.sum(dim=-1) - 1).abs() < 1e-3).all())
