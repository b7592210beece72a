"""What a sweep varies: a recipe, and a range of values for some of its settings.

recipe = "digits"                                # the base: a name, a file, or a table
trials = 20                                      # the base is the first of them
[ranges]
"optimizer.lr" = { low = 0.01, high = 1.0, log = true }
"schedule.epochs" = { low = 4, high = 8 }        # whole limits give whole numbers
"augment.cutout" = { choices = ["none", {}] }
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ...errors import UsageError, suggest
from ...recipe import Recipe, Section
from ...recipe.presets import load_recipe
from ...recipe.toml import flatten, read_toml, to_toml, unflatten, with_changes, with_epochs

Metric = Literal["val_accuracy", "val_loss"]

# Sections whose settings change what is learned, but for these. The rest decides which images
# validate, or cannot be seen in validation.
_SECTIONS = ("augment", "data", "loss", "model", "optimizer", "probe", "schedule", "training")
_DATA = ("data.balance", "data.channels", "data.image_size", "data.normalize", "data.resize")
_FIXED = ("training.deterministic", "training.select")


class Range(Section):
    """The values that a sweep tries for a setting: from low to high, or one of some choices."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False  # by the logarithm: as many trials from 0.01 to 0.1 as from 0.1 to 1
    step: Annotated[float, Field(gt=0)] | Annotated[int, Field(gt=0)] | None = None
    choices: Annotated[tuple[Any, ...], Field(strict=False, min_length=2)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.choices is not None:
            if (self.low, self.high, self.log, self.step) != (None, None, False, None):
                raise ValueError("has choices and limits; give one of the two")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("needs low and a greater high, or choices")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("is of logarithms, so low must be > 0, and there is no step")
        if self.is_whole and isinstance(self.step, float):
            raise ValueError(f"is of whole numbers, but step = {self.step} is none")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the values between the limits are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def examples(self) -> tuple[Any, ...]:
        """The choices, or the two limits."""
        return self.choices if self.choices is not None else (self.low, self.high)

    @property
    def labels(self) -> tuple[str | int | float | bool, ...]:
        """The choices as a storage can hold them: a table or a list as JSON."""
        return tuple(
            choice if isinstance(choice, str | int | float) else json.dumps(choice)
            for choice in self.choices or ()
        )

    def value(self, stored: Any) -> Any:
        """Return the value of the setting from what a storage holds, to four digits."""
        if self.choices is None:
            if isinstance(stored, int):
                return stored
            assert self.low is not None
            assert self.high is not None
            return min(max(float(f"{stored:.4g}"), self.low), self.high)
        return self.choices[self.labels.index(stored)]


class Sweep(Section):
    """A search for better settings: the base, the ranges, and how trials are chosen and judged."""

    recipe: str | dict[str, Any] | Recipe = "digits"
    ranges: Annotated[dict[str, Range], Field(min_length=1)]
    trials: Annotated[int, Field(ge=2, le=100_000)] = 20  # with the base
    metric: Metric = "val_accuracy"
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "hyperband"] | None = "median"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # of the sampler

    @cached_property
    def base(self) -> Recipe:
        """The recipe that the sweep changes.

        Raises UsageError if there is no such recipe.
        """
        if not isinstance(self.recipe, dict):
            return load_recipe(self.recipe)
        changes = dict(self.recipe)
        name = changes.pop("base", None)
        base = Recipe() if name is None else load_recipe(str(name))
        return with_changes(base, changes, origin="sweep: recipe")

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """Return the base with other values of some settings; the schedule stretches to its epochs.

        Raises:
            UsageError: the values do not fit each other.
        """
        recipe, rest = self.base, dict(values)
        if "schedule.epochs" in rest:
            recipe = with_epochs(recipe, rest.pop("schedule.epochs"))
        return with_changes(recipe, unflatten(rest.items()), origin="sweep")

    @cached_property
    def base_values(self) -> dict[str, Any] | None:
        """The base as what a storage holds for each range; None if it lies outside of one."""
        settings = flatten(self.base.model_dump())
        values: dict[str, Any] = {}
        for path, span in self.ranges.items():
            same: list[Any]
            if span.choices is not None:
                same = [
                    label
                    for label, choice in zip(span.labels, span.choices, strict=True)
                    if self.changed({path: choice}) == self.base
                ]
            else:
                value = settings.get(path)
                same = [value] if _is_inside(span, value) else []
            if not same:
                return None
            values[path] = same[0]
        return values

    @property
    def fingerprint(self) -> str:
        """A hash of all that trials of one study must have in common."""
        ranges = {path: span.model_dump() for path, span in sorted(self.ranges.items())}
        content = [to_toml(self.base), ranges, self.metric]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def load_sweep(sweep: str | Path | Sweep | Mapping[str, Any]) -> tuple[str, Sweep]:
    """Return the name and the checked content of a sweep: a TOML file, a value or a table.

    Raises:
        UsageError: the file cannot be read, or a setting cannot be swept or has no such values.
    """
    name, origin = "sweep", "sweep"
    if isinstance(sweep, str | Path):
        name, origin = Path(sweep).stem, str(sweep)
        sweep = read_toml(Path(sweep))
    if not isinstance(sweep, Sweep):
        try:
            sweep = Sweep.model_validate(sweep)
        except ValidationError as error:
            raise UsageError(f"{origin}: {_error_line(error)}") from error
    for path, span in sweep.ranges.items():
        _check_path(path)
        for value in span.examples:
            sweep.changed({path: value})
    return name, sweep


def _check_path(path: str) -> None:
    section = path.partition(".")[0]
    is_data = section == "data"
    allowed = path in _DATA if is_data else section in _SECTIONS and path not in _FIXED
    if section not in Recipe.model_fields:
        valid = ", ".join(_SECTIONS)
        raise UsageError(
            f"unknown setting {path} in [ranges]{suggest(section, _SECTIONS)} (sections: {valid})"
        )
    if not allowed:
        raise UsageError(
            f"{path} in [ranges] cannot be swept: it decides which images validate or how an epoch "
            "is chosen, or validation does not show it; set it in the recipe"
        )


def _is_inside(span: Range, value: Any) -> bool:
    """Whether a range of numbers holds a value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    assert span.low is not None
    assert span.high is not None
    if span.is_whole and not isinstance(value, int):
        return False
    steps = (value - span.low) / (span.step or 1)
    on_grid = span.step is None or abs(steps - round(steps)) < 1e-9
    return span.low <= value <= span.high and on_grid


def _error_line(error: ValidationError) -> str:
    """Return the first error of a sweep as one line."""
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"]]
    place = ".".join(parts) or "the sweep"
    if first["type"] == "extra_forbidden":
        kind: type[Section] = Range if parts[0] == "ranges" else Sweep
        names = list(kind.model_fields)
        return f"unknown key {place}{suggest(parts[-1], names)} (valid: {', '.join(names)})"
    if first["type"] == "missing":
        return (
            f'{place} is missing; write for example [ranges] "optimizer.lr" = {{ low = 0.01, '
            "high = 1.0, log = true }"
        )
    if first["type"] == "value_error":
        return f"{place} {first['ctx']['error']}"
    return f"{place} = {str(first['input'])[:60]}: {first['msg']}"
