"""The results that published CIFAR-10 projects report, to compare with their recipes here.

Accuracies are of the 10,000 test images of CIFAR-10 with its original pixels, with the best epoch
chosen on these same images. The curves are read off the projects' logs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import UsageError, suggest
from . import PRESETS


@dataclass(frozen=True)
class PublishedProject:
    """The result that a published project reports."""

    accuracy: float  # test, best epoch
    epochs: int
    best_epoch: int | None = None
    train_accuracy: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)  # epoch -> test accuracy
    lr_finder: bool = False  # whether its page shows a range test
    zigzag: bool = False  # whether its page draws the triangular curve

    @property
    def points(self) -> dict[int, float]:
        """Epoch -> test accuracy, with the result: at the last epoch if none is named."""
        return {**self.curve, self.best_epoch or self.epochs: self.accuracy}


PUBLISHED: dict[str, PublishedProject] = {
    "resnet18-onecycle": PublishedProject(
        accuracy=0.8701,
        epochs=20,
        best_epoch=20,
        curve={1: 0.296, 5: 0.549, 10: 0.787, 15: 0.845, 20: 0.8701},
    ),
    "resnet18-plateau": PublishedProject(
        accuracy=0.9175,
        epochs=50,
        best_epoch=43,
        train_accuracy=0.98,
        curve={1: 0.643, 10: 0.834, 20: 0.882, 27: 0.874, 28: 0.912, 43: 0.9175, 50: 0.916},
        lr_finder=True,
    ),
    "resnet9-onecycle": PublishedProject(
        accuracy=0.9098,
        epochs=24,
        best_epoch=24,
        train_accuracy=0.9634,
        curve={1: 0.677, 5: 0.678, 10: 0.714, 15: 0.801, 20: 0.857, 23: 0.897, 24: 0.9098},
        lr_finder=True,
    ),
    "superconvergence": PublishedProject(
        accuracy=0.9046, epochs=24, train_accuracy=0.9426, lr_finder=True, zigzag=True
    ),
    "resnet18-sgd-plateau": PublishedProject(
        accuracy=0.8883, epochs=50, train_accuracy=0.9758, lr_finder=True
    ),
    "resnet18-layernorm": PublishedProject(
        accuracy=0.8917,
        epochs=40,
        best_epoch=39,
        curve={1: 0.232, 10: 0.566, 20: 0.744, 30: 0.774, 36: 0.781, 37: 0.88, 39: 0.8917},
    ),
}

# Recipe that changes a published project -> that project.
VARIANTS = {name: preset.base for name, preset in PRESETS.items() if preset.base in PUBLISHED}


def get_published(name: str) -> PublishedProject:
    """Return the project of that name, or the one that a variant of that name changes.

    Raises:
        UsageError: there is none.
    """
    name = VARIANTS.get(name, name)
    if name not in PUBLISHED:
        raise UsageError(
            f'"{name}" is not a published project{suggest(name, PUBLISHED)} '
            f"(valid: {', '.join([*PUBLISHED, *VARIANTS])}, all)"
        )
    return PUBLISHED[name]
