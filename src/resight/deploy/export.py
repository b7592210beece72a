"""Export a run: its network as a program for other software, or its weights for a hub."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..datasets import Dataset
from ..datasets.augment import normalize
from ..errors import ResightError, UsageError, suggest
from ..events import OnEvent, show_events
from ..files import atomic_write
from ..runs.checkpoint import ModelInfo, load_model
from ..runs.run import Run
from .hub import import_hub, push_folder, write_hub_folder
from .metadata import describe_model
from .network import ClassMaps, PixelNetwork, class_maps
from .programs import ProgramKind, capture, check_extras, open_program, write_program
from .verify import largest_difference, sample_images

Target = Literal["onnx", "pt2", "hub"]

NUM_PROBE_IMAGES = 4  # that show whether the closed form of heat maps holds
MAX_DIFFERENCE = 1e-4  # of any output from torch's, in float32


@dataclass(frozen=True)
class ExportResult:
    """What was exported and where to, and how far it is from torch."""

    to: Target
    path: Path
    outputs: tuple[str, ...] = ()  # of a program
    difference: float | None = None  # the largest of any output of a program from torch's
    images: str = ""  # on which it was measured
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain Python, fit for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        lines = [f"exported   {self.path}"]
        if self.difference is not None:
            lines.append(f"outputs    {', '.join(self.outputs)}")
            lines.append(f"difference {self.difference:.1e} from torch at most, on {self.images}")
        return "\n".join([*lines, *(f"note       {note}" for note in self.notes)])


def export(
    run: str | Path | Run,
    *,
    to: Target,
    out: str | Path | None = None,
    force: bool = False,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    license: str | None = None,
    push: str | None = None,
    on_event: OnEvent = show_events,
) -> ExportResult:
    """Write the network of a run for use without resight.

    `onnx` and `pt2` give one file with a program: uint8 pixels go in, and probabilities, logits
    and, where the network ends in pooling and a linear layer, heat maps come out. It is compared
    with torch on up to 1,000 test images before it gets its name. `hub` gives a folder with
    weights, settings and a model card, which `push` uploads to `owner/name`.

    `out` is by default `model.onnx`, `model.pt2` or `hub` in the run folder; `force` replaces what
    is there. `data` is the run's data set, if it has moved; nothing is downloaded for the check.

    Raises:
        UsageError: no such run or target, `out` exists, an option belongs to another target, or a
            package is missing.
        ResightError: the network cannot be exported, or the program differs from torch by more
            than 1e-4.
    """
    _check_arguments(to, license=license, push=push, data=data)
    run = Run.open(run)
    path = _out_path(run, to, out, force=force)
    if to == "hub":
        write_hub_folder(run, path, license=license or "unknown")
        notes = (f"pushed to {push_folder(path, push)}",) if push else ()
        return ExportResult(to, path, notes=notes)
    network, info = load_model(
        run.folder, model, torch.device("cpu"), allow_import=run.allow_import
    )
    images, name = sample_images(info, data, on_event)
    maps = class_maps(network, normalize(images[:NUM_PROBE_IMAGES], info.stats))
    distance = _write_checked(
        path, to, network, info, images=images, data=name, maps=maps, on_event=on_event
    )
    outputs = ("probabilities", "logits", *(("heatmap",) if maps else ()))
    return ExportResult(to, path, outputs, distance, name, _notes(info, maps))


def _write_checked(
    path: Path,
    to: ProgramKind,
    network: nn.Module,
    info: ModelInfo,
    *,
    images: Tensor,
    data: str,
    maps: ClassMaps | None,
    on_event: OnEvent,
) -> float:
    """Write a program if it does on `images` what torch does; return the largest difference.

    data: the name of the images, for the message.
    """
    with atomic_write(path) as temporary:
        deployed = PixelNetwork(network, info.stats, temperature=info.temperature, maps=maps)
        program = capture(deployed, images[:2])
        about = {**describe_model(info), "heatmap": maps and maps.layer}
        write_program(program, temporary, to, about)
        distance = largest_difference(
            open_program(temporary, to),
            network,
            images,
            info.stats,
            temperature=info.temperature,
            with_maps=maps is not None,
            on_event=on_event,
        )
        if not distance <= MAX_DIFFERENCE:  # NaN too
            raise ResightError(
                f"{path} was not written: on {data} the program differs from torch by "
                f"{distance:.2g}, more than {MAX_DIFFERENCE:g}"
            )
    return distance


def _check_arguments(
    to: str, *, license: str | None, push: str | None, data: Dataset | str | Path | None
) -> None:
    """Refuse arguments that do not go together, and missing packages, before anything is read."""
    targets = get_args(Target)
    if to not in targets:
        raise UsageError(f"to = {to!r}{suggest(str(to), targets)} (valid: {', '.join(targets)})")
    for name, value in (("license", license), ("push", push)):
        if to != "hub" and value is not None:
            raise UsageError(f"{name} = {value!r} is for --to hub, not for {to}; leave it out")
    if to == "hub" and data is not None:
        source = data.name if isinstance(data, Dataset) else data
        raise UsageError(f"data = {source} is for programs, not for --to hub; leave it out")
    if push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", push):
        raise UsageError(f"push = {push!r} is no repository of the hub; write owner/name")
    if to == "onnx":
        check_extras()
    if to == "hub":
        import_hub()


def _out_path(run: Run, to: Target, out: str | Path | None, *, force: bool) -> Path:
    """Return where to write; refuse a place that is taken or has another kind of name."""
    name = "hub" if to == "hub" else f"model.{to}"
    path = run.folder / name if out is None else Path(out)
    if to != "hub" and path.suffix != f".{to}":
        raise UsageError(
            f"out = {str(path)!r} must end in .{to}, as in {path.with_suffix('.' + to)}"
        )
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist; make it")
    if path.is_dir() != (to == "hub") and path.exists():
        kind = "a folder" if path.is_dir() else "a file"
        raise UsageError(f"{path} is {kind}; name another place with --out")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; pass --force to replace it, or --out to keep both")
    return path


def _notes(info: ModelInfo, maps: ClassMaps | None) -> tuple[str, ...]:
    """What the program does not do as the run does."""
    notes = []
    if maps is None:
        notes.append(
            "there is no output heatmap, as the network does not end in global pooling of a map "
            "and one linear layer"
        )
    if views := info.recipe.evaluation.views:
        notes.append(
            f"the program sees each image once, and not {views}, so its accuracy is the one that "
            "`resight evaluate --tta none` measures"
        )
    if (precision := info.recipe.training.precision) != "float32":
        notes.append(f"the program computes in float32, and the run in {precision}")
    return (*notes, *info.notes)
