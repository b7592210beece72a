"""The commands that use a trained run: `evaluate` and `predict`."""

from pathlib import Path
from typing import Literal

from .options import (
    AllowImport,
    CommandResult,
    DataOptions,
    Device,
    OutputOptions,
    RunFolder,
    emit,
    progress,
)
from .streams import show_problem


def evaluate(
    run: RunFolder,
    /,
    *,
    data_options: DataOptions = DataOptions(),
    split: Literal["train", "val", "test", "all"] | None = None,
    changed_data: bool = False,
    tta: Literal["flip", "flip_shift", "none"] | None = None,
    device: Device = "auto",
    allow_import: AllowImport = False,
    output: OutputOptions = OutputOptions(),
) -> None:
    """Evaluate a run on its test images, or on other data.

    The classes of the other data (--data) are matched by name. All of it is scored if it is not
    divided into splits.

    Parameters
    ----------
    split
        Score these images; by default test, else val, else all.
    changed_data
        Go on although the run's data has changed, or most images are those of its training.
    tta
        Average over mirrored (and shifted) views of each image.
    """
    from ..runs import inference
    from ..runs.run import Run

    with progress(output) as on_event:
        result = inference.evaluate(
            Run.open(run, allow_import=allow_import),
            data=data_options.data,
            split=split,
            changed_data=changed_data,
            layout=data_options.layout,
            tta=tta,
            device=device,
            offline=data_options.offline,
            skip_unreadable=bool(data_options.skip_unreadable),
            on_event=on_event,
        )
    emit(result, output)


def predict(
    run: RunFolder,
    /,
    *images: Path,
    top: int = 3,
    unsure_below: float | None = None,
    out: Path | None = None,
    device: Device = "auto",
    allow_import: AllowImport = False,
    output: OutputOptions = OutputOptions(),
) -> int:
    """Predict the classes of picture files by a run's weights.

    Files that cannot be read are named, and the exit code is 1 then.

    Parameters
    ----------
    images
        Give picture files, folders of them, or patterns such as 'photos/*.jpg'.
    top
        Name this many classes.
    unsure_below
        Mark answers of a lower probability, as in 0.8, and say how many are above and right.
    out
        Write all probabilities into this CSV file too.
    """
    from ..runs.predict import predict as predict_pictures
    from ..runs.run import Run

    with progress(output) as on_event:
        result = predict_pictures(
            Run.open(run, allow_import=allow_import),
            images,
            unsure_below=unsure_below,
            skip_unreadable=True,
            device=device,
            on_event=on_event,
        )
    if out is not None:
        result.write_csv(out)
    emit(CommandResult(result.to_dict(), result.text(top)), output)
    for line in result.unreadable.values():
        show_problem(line)
    return 1 if result.unreadable else 0
