"""The base class of the sections of a recipe, and the ranges that settings share."""

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

    Unknown keys, wrong types, NaN, infinity and text that is not UTF-8 are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_utf8(cls, values: Any) -> Any:
        """Refuse text of other bytes: a `recipe.toml` with it could not be read again."""
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
        """Read the word "none" of an optional setting as off, as TOML has no null."""
        if not isinstance(values, Mapping):
            return values
        optional = {
            key for key, f in cls.model_fields.items() if type(None) in get_args(f.annotation)
        }
        return {k: None if k in optional and v == "none" else v for k, v in values.items()}
