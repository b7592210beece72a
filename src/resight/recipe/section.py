"""The base class of the sections of a recipe, and the ranges that settings share."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1, le=512)]
# How far small classes are made to count as much as large ones: a power, of which "balanced" is 1.
Balance = Literal["balanced"] | Annotated[float, Field(gt=0, le=1)]


def power_of(balance: Balance | None) -> float:
    """Return a balance as a number: 0 leaves classes as they are, 1 makes all count alike."""
    return 1.0 if balance == "balanced" else balance or 0.0


class Section(BaseModel):
    """A frozen group of settings; unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: Any) -> Any:
        """Read the word "none" of an optional setting as off, as TOML has no null.

        Text of other bytes than UTF-8 is refused: a `recipe.toml` with it could not be read again.
        """
        if not isinstance(values, Mapping):
            return values
        settings = dict(values)
        for key, value in values.items():
            field = cls.model_fields.get(key)
            if value == "none" and field and type(None) in get_args(field.annotation):
                settings[key] = None
            elif isinstance(value, str) and value.encode(errors="replace").decode() != value:
                raise ValueError(
                    f"{key} = {value!a} is not UTF-8, which a recipe is written in; "
                    "rename it, or link to it by another name"
                )
        return settings
