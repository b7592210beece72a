"""The recipe as one frozen value of all its sections."""

from typing import Annotated, Self, get_args

from pydantic import Field, model_validator

from .data import Augment, Data
from .model import Custom, Model, ResNet, ResNet9, Swift
from .optimizer import SGD, Adam, AdamW, Muon, Optimizer, RMSprop
from .schedule import Constant, Cosine, MultiStep, OneCycle, Plateau, Schedule, Triangular
from .section import Section
from .training import Evaluation, Explain, Loss, Training


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
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    explain: Explain = Explain()

    @model_validator(mode="after")
    def _validation_where_needed(self) -> Self:
        if self.data.val_fraction is None:
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


def _by_name(*kinds: type[Section]) -> dict[str, type[Section]]:
    return {name: kind for kind in kinds for name in get_args(kind.model_fields["name"].annotation)}


# Section -> name -> the class of its settings.
KINDS: dict[str, dict[str, type[Section]]] = {
    "model": _by_name(ResNet, ResNet9, Swift, Custom),
    "optimizer": _by_name(SGD, Adam, AdamW, RMSprop, Muon),
    "schedule": _by_name(OneCycle, Triangular, Plateau, Cosine, MultiStep, Constant),
}
