"""The recipe as one frozen value of all its sections."""

from typing import Annotated, Self, get_args

from pydantic import Field, model_validator

from .data import Augment, Data
from .model import Custom, Import, Model, ResNet, ResNet9, Swift
from .optimizer import SGD, Adam, AdamW, Muon, Optimizer, RMSprop
from .schedule import Constant, Cosine, MultiStep, OneCycle, Plateau, Schedule, Triangular
from .section import Section
from .training import Evaluation, Explain, LinearProbe, Loss, Training


class Recipe(Section):
    """Everything that decides a run: the same recipe, data and machine give the same weights."""

    name: str = "custom"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = ResNet()
    optimizer: Optimizer = SGD()
    schedule: Schedule = OneCycle()
    loss: Loss = Loss()
    probe: LinearProbe | None = None
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    explain: Explain = Explain()

    @property
    def balances_classes(self) -> bool:
        """Whether an image of a small class counts more than one of a large class."""
        return self.loss.class_weights is not None or self.data.balance is not None

    @model_validator(mode="after")
    def _balanced_once(self) -> Self:
        if self.loss.class_weights is not None and self.data.balance is not None:
            raise ValueError(
                f"loss.class_weights = {self.loss.class_weights} and data.balance = "
                f"{self.data.balance} both make up for small classes, which would then count "
                "more than large ones; set one of the two to none"
            )
        return self

    @model_validator(mode="after")
    def _validation_where_needed(self) -> Self:
        if not self.data.has_validation:
            if isinstance(self.schedule, Plateau):
                raise ValueError(
                    'schedule.name = "plateau" needs validation, but data.val_fraction = "none"; '
                    "set data.val_fraction=0.1 or another schedule"
                )
            if self.training.select != "last":
                raise ValueError(
                    f'training.select = "{self.training.select}" needs validation, but '
                    'data.val_fraction = "none"; set training.select=last'
                )
        return self

    @model_validator(mode="after")
    def _no_epochs_after_a_probe(self) -> Self:
        if self.probe is not None and self.probe.only and self.schedule.epochs != 1:
            raise ValueError(
                f"probe.only = true takes no steps, but schedule.epochs = {self.schedule.epochs}; "
                "set schedule.epochs=1, or probe.only=false to train afterwards"
            )
        return self


def _by_name(*kinds: type[Section]) -> dict[str, type[Section]]:
    return {name: kind for kind in kinds for name in get_args(kind.model_fields["name"].annotation)}


# Section -> name -> the class of its settings.
KINDS: dict[str, dict[str, type[Section]]] = {
    "model": _by_name(ResNet, ResNet9, Swift, Import, Custom),
    "optimizer": _by_name(SGD, Adam, AdamW, RMSprop, Muon),
    "schedule": _by_name(OneCycle, Triangular, Plateau, Cosine, MultiStep, Constant),
}
