"""What every section of a recipe is: a frozen group of settings, and the ranges they share."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1, le=512)]


class Section(BaseModel):
    """A frozen group of settings.

    Unknown keys, wrong types, NaN, infinity and text that a file could not hold are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, values: Any) -> Any:
        """A path of other bytes would make a `recipe.toml` that cannot be read again."""
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, str):
                try:
                    value.encode()
                except UnicodeEncodeError as error:
                    raise ValueError(
                        f"{key} = {value!a} is not UTF-8, which a recipe is written in; "
                        "rename it, or link to it by another name"
                    ) from error
        return values

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: Any) -> Any:
        """TOML has no null: the word "none" switches an optional setting off."""
        if not isinstance(values, Mapping):
            return values
        optional = {
            key for key, f in cls.model_fields.items() if type(None) in get_args(f.annotation)
        }
        return {k: None if k in optional and v == "none" else v for k, v in values.items()}
