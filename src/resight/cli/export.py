"""The command that writes the network of a run for use without resight."""

from pathlib import Path
from typing import Literal

from .options import AllowImport, OutputOptions, RunFolder, emit, progress


def export(
    run: RunFolder,
    /,
    *,
    to: Literal["onnx", "pt2", "hub"],
    out: Path | None = None,
    force: bool = False,
    data: str | None = None,
    license: str | None = None,
    push: str | None = None,
    allow_import: AllowImport = False,
    output: OutputOptions = OutputOptions(),
) -> None:
    """Write a run's network for use without resight: as ONNX, as pt2, or for the hub.

    A program (onnx, pt2) takes uint8 pixels and returns probabilities, logits and heat maps. It is
    compared with torch on test images before it gets its name.

    Parameters
    ----------
    to
        Write for ONNX Runtime (onnx), for torch.export (pt2), or for the hub, with a model card.
    out
        Write here; by default model.onnx, model.pt2 or hub in the run folder.
    force
        Replace a file or folder that is there.
    data
        Read the run's data here, if it has moved.
    license
        Write this license on the model card of --to hub; by default unknown.
    push
        Upload the folder of --to hub to OWNER/NAME; a new repository is private.
    """
    from ..deploy import export as deploy
    from ..runs.run import Run

    with progress(output) as on_event:
        result = deploy.export(
            Run.open(run, allow_import=allow_import),
            to=to,
            out=out,
            force=force,
            data=data,
            license=license,
            push=push,
            on_event=on_event,
        )
    emit(result, output)
