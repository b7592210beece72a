"""The result of a sweep: its trials, the best recipe, and the page that shows both.

sweeps/lr/
  README.md         the best recipe against the base, and every trial
  best.toml         the best recipe, every setting
  importances.png   which of the swept settings mattered, by Optuna
  trials.csv        a line a trial
  best-trial7/      the run of the best recipe; it alone read the test set
  sweep.json        the sweep, by which this folder is known
  study.log         the storage, unless --storage names another
"""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ... import figures
from ...files import json_text, write_csv, write_text
from ...metrics.intervals import Interval, share_difference, wilson
from ...recipe import Recipe
from ...recipe.toml import differences, to_toml, with_changes
from ...text import setting_text
from ..run import Run
from .space import Sweep
from .study import Workplace, without_log

MIN_TRIALS = 5  # that ran to their end, for importances


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial: the values of the swept settings, its end, and its validation at the kept epoch."""

    number: int  # from 0
    state: str  # complete, pruned, fail, running or waiting
    is_base: bool
    values: dict[str, Any]
    epoch: int | None
    val_accuracy: float | None
    val_loss: float | None
    val_images: int
    secs: float | None
    retry_of: int | None  # the trial of a worker that was killed or stopped
    why: str  # it failed or diverged

    @property
    def accuracy(self) -> Interval | None:
        """The validation accuracy with its interval over the images."""
        if self.val_accuracy is None:
            return None
        return wilson(round(self.val_accuracy * self.val_images), self.val_images)


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The trials of a sweep, and the run of the best recipe, which read the test set.

    run: None where the sweep was interrupted, nothing ran to its end, or another worker trains it.
    """

    name: str
    folder: Path
    sweep: Sweep
    trials: tuple[TrialRow, ...]
    importances: dict[str, float]  # of the swept settings, with the sum 1; empty for few trials
    run: Run | None
    interrupted: bool

    @property
    def base(self) -> TrialRow | None:
        """The trial of the base, if it is complete."""
        return next((row for row in self._complete if row.is_base), None)

    @property
    def best(self) -> TrialRow | None:
        """The complete trial of the best metric; of equally accurate ones that of lower loss."""

        def rank(row: TrialRow) -> tuple[float, float]:
            loss = row.val_loss or 0.0
            return (-(row.val_accuracy or 0), loss) if self._by_accuracy else (loss, 0.0)

        return min(self._complete, key=rank, default=None)

    @property
    def recipe(self) -> Recipe:
        """The best recipe; the base where no trial is better."""
        best = self.best
        if best is None or best.is_base:
            return self.sweep.base
        return with_changes(self.sweep.changed(best.values), {"name": self.name}, origin="sweep")

    @property
    def difference(self) -> Interval | None:
        """The validation accuracy of the best minus that of the base, as if of different images."""
        if self.base is None or self.best is None:
            return None
        assert self.base.accuracy is not None
        assert self.best.accuracy is not None
        return share_difference(self.base.accuracy, self.best.accuracy)

    @property
    def _complete(self) -> list[TrialRow]:
        return [row for row in self.trials if row.state == "complete"]

    @property
    def _by_accuracy(self) -> bool:
        return self.sweep.metric == "val_accuracy"

    @property
    def counts(self) -> dict[str, int]:
        """How many trials ended how; those that were given to another worker are `retried`."""
        states = [row.state for row in self.trials]
        return {state: states.count(state) for state in dict.fromkeys(states)}

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain Python, fit for JSON."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "trials": [asdict(row) for row in self.trials],
            "base": self.base and self.base.number,
            "best": self.best and self.best.number,
            "difference": self.difference and asdict(self.difference),
            "importances": self.importances,
            "recipe": self.recipe.model_dump(),
            "run": self.run and self.run.to_dict(),
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        lines = [f"{len(self.trials)} trials: {ends}", *_comparison_lines(self)]
        if self.run is not None:
            lines += ["", str(self.run), f"page       {self.folder / 'README.md'}"]
        elif self.best and not self.interrupted:
            lines += ["", "another worker trains the best recipe, in the folder where it began"]
        return "\n".join(lines)


def read_result(
    workplace: Workplace, folder: Path, *, run: Run | None, interrupted: bool
) -> SweepResult:
    """Return the result of a sweep as its storage has it now."""
    trials = [_row(trial, workplace.sweep) for trial in workplace.study.get_trials(deepcopy=False)]
    return SweepResult(
        name=workplace.study.study_name,
        folder=folder,
        sweep=workplace.sweep,
        trials=tuple(trials),
        importances=_importances(workplace),
        run=run,
        interrupted=interrupted,
    )


def _row(trial: Any, sweep: Sweep) -> TrialRow:
    attrs = trial.user_attrs
    return TrialRow(
        number=trial.number,
        state="retried" if attrs.get("retried") else trial.state.name.lower(),
        is_base=bool(attrs.get("base")),
        values={path: sweep.ranges[path].value(value) for path, value in trial.params.items()},
        epoch=attrs.get("epoch"),
        val_accuracy=attrs.get("val_accuracy"),
        val_loss=attrs.get("val_loss"),
        val_images=int(attrs.get("val_images", 0)),
        secs=attrs.get("secs"),
        retry_of=attrs.get("retry_of"),
        why=str(attrs.get("why", "")),
    )


def _importances(workplace: Workplace) -> dict[str, float]:
    """The share of each swept setting in what makes a trial one of the best (PED-ANOVA)."""
    import optuna

    complete = workplace.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    inside = [trial for trial in complete if trial.params]  # a base outside the ranges has none
    if len(inside) < MIN_TRIALS:
        return {}
    with without_log(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that so few trials are uncertain
        study = optuna.create_study(direction=workplace.study.direction)
        study.add_trials(inside)
        return dict(optuna.importance.get_param_importances(study))


def write_sweep(result: SweepResult) -> None:
    """Write the page, the best recipe, the figure and the table of a sweep into its folder."""
    folder = result.folder
    write_text(folder / "best.toml", to_toml(result.recipe))
    paths = list(result.sweep.ranges)
    columns = ("epoch", "val_accuracy", "val_loss", "secs", "retry_of", "why")
    rows = [
        [row.number, row.state, "base" if row.is_base else ""]
        + [_plain(row.values.get(path)) for path in paths]
        + [getattr(row, column) for column in columns]
        for row in result.trials
    ]
    write_csv(folder / "trials.csv", [["trial", "state", "base", *paths, *columns], *rows])
    figure = folder / "importances.png"
    figure.unlink(missing_ok=True)
    if result.importances:
        figures.save(figures.setting_importances(result.importances), figure)
    write_text(folder / "README.md", _page(result))


def _plain(value: Any) -> Any:
    return json_text(value) if isinstance(value, dict | list | tuple) else value


def _comparison_lines(result: SweepResult) -> list[str]:
    """The best against the base: their validation, and the settings that differ."""
    base, best = result.base, result.best
    if best is None:
        return ["no trial ran to its end, so there is no best recipe"]
    lines = []
    for name, row in (("base", base), ("best", best)):
        if row is None or row.accuracy is None:
            continue
        share = row.accuracy
        lines.append(
            f"{name}: trial {row.number}, validation accuracy {share.value:.2%} "
            f"({share.low:.2%} to {share.high:.2%}) of {share.n:,} images, loss {row.val_loss:.4f}"
        )
    if best.is_base:
        return [*lines, "no trial is better than the base"]
    changed = differences(result.recipe, result.sweep.base)
    changed.pop("name", None)
    lines += [
        f"  {path} = {setting_text(new)} (base: {setting_text(old)})"
        for path, (old, new) in changed.items()
    ]
    difference = result.difference
    if difference is not None:
        points = f"{100 * difference.value:+.2f} points ({100 * difference.low:+.2f} to "
        points += f"{100 * difference.high:+.2f})"
        few = "; too few images to tell" if difference.low <= 0 <= difference.high else ""
        lines.append(f"best against base: {points}{few}")
    return lines


def _page(result: SweepResult) -> str:
    """The Markdown page."""
    complete = result.counts.get("complete", 0)
    lines = [f"# The sweep `{result.name}`", "", "```text", str(result), "```", ""]
    if result.run is not None:
        lines += [
            f"The best of {complete} is best partly by luck, so its validation accuracy is too "
            f"high. Its test accuracy is not: [its run]({result.run.folder.name}/README.md) alone "
            "read the test set, once.",
            "",
        ]
    if result.importances:
        lines += [
            "![importances](importances.png)",
            "",
            "The importance of a setting is its share in what makes a trial one of the best tenth "
            "(PED-ANOVA, Watanabe et al. 2023). With few trials it is a hint.",
            "",
        ]
    paths = list(result.sweep.ranges)
    settings = " | ".join(f"`{path}`" for path in paths)
    lines += [
        "The best recipe is in [best.toml](best.toml), and all trials are in "
        "[trials.csv](trials.csv).",
        "",
        f"| trial | {settings} | validation accuracy | loss | end |",
        f"| --- {'| --- ' * (len(paths) + 3)}|",
    ]
    for row in result.trials:
        values = [setting_text(row.values[path]) if path in row.values else "" for path in paths]
        share = "" if row.val_accuracy is None else f"{row.val_accuracy:.2%}"
        loss = "" if row.val_loss is None else f"{row.val_loss:.4f}"
        end = " ".join(["base," * row.is_base, row.state, f"({row.why})" if row.why else ""])
        number = f"**{row.number}**" if row == result.best else str(row.number)
        lines.append(f"| {' | '.join([number, *values, share, loss, end.strip()])} |")
    return "\n".join(lines) + "\n"
