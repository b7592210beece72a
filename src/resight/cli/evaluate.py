"""The commands that use a trained run: `evaluate` and `predict`."""

from pathlib import Path
from typing import Literal

from .options import CommandResult, DataOptions, Device, OutputOptions, RunFolder, emit, progress


def evaluate(
    run: RunFolder,
    /,
    *,
    data_options: DataOptions = DataOptions(),
    tta: Literal["flip", "flip_shift", "none"] | None = None,
    device: Device = "auto",
    output: OutputOptions = OutputOptions(),
) -> None:
    """Evaluate a run on its test set, or on the test set of other data.

    The other data (--data) must have the classes that the run was trained on.

    Parameters
    ----------
    tta
        Test-time augmentation: average over mirrored (and shifted) views.
    """
    from ..runs import inference

    with progress(output) as on_event:
        result = inference.evaluate(
            run,
            data=data_options.data,
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
    device: Device = "auto",
    output: OutputOptions = OutputOptions(),
) -> None:
    """Predict the classes of picture files by a run's weights.

    Parameters
    ----------
    images
        Picture files.
    top
        Number of classes to name.
    """
    from ..runs import inference

    predictions = inference.predict(run, images, device=device)
    lines = [
        f"{prediction.id}: {', '.join(f'{name} {p:.1%}' for name, p in prediction.ranking[:top])}"
        for prediction in predictions
    ]
    content = [prediction.to_dict() for prediction in predictions]
    emit(CommandResult(content, "\n".join(lines)), output)
