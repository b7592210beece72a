"""The commands that ask a trained run: `evaluate` and `predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .options import DataOptions, Device, OutputOptions, RunFolder, emit, progress

if TYPE_CHECKING:
    from ..runs.inference import ImagePrediction


def evaluate(
    run: RunFolder,
    /,
    *,
    data_options: DataOptions = DataOptions(),
    tta: Literal["flip", "flip_shift", "none"] | None = None,
    device: Device = "auto",
    output: OutputOptions = OutputOptions(),
) -> int:
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
    return 0


@dataclass(frozen=True)
class TopClasses:
    """A prediction, of which the text names the `top` likeliest classes."""

    prediction: "ImagePrediction"
    top: int

    def to_dict(self) -> dict[str, Any]:
        return self.prediction.to_dict()

    def __str__(self) -> str:
        classes = (f"{name} {prob:.1%}" for name, prob in self.prediction.ranking[: self.top])
        return f"{self.prediction.id}: {', '.join(classes)}"


def predict(
    run: RunFolder,
    /,
    *images: Path,
    top: int = 3,
    device: Device = "auto",
    output: OutputOptions = OutputOptions(),
) -> int:
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
    emit([TopClasses(prediction, top) for prediction in predictions], output)
    return 0
