"""What the page says: a run in words and numbers for the template, and data for the script."""

import re
from pathlib import Path
from typing import Any

from ..diagnosis.issues import apply_checks
from ..diagnosis.run_checks import RUN_CHECKS
from ..recipe import Recipe
from ..recipe.presets import PRESETS, load_recipe
from ..recipe.toml import differences, to_toml
from ..runs.run import Run
from ..runs.summary import Summary
from .charts import charts
from .script_data import atlases, script_data


def view(run: Run) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the context of the template and the data of the script (None without predictions)."""
    recipe, environment = run.recipe, run.environment or {}
    context = {
        "title": f"{recipe.name} on {_source(recipe)}",
        "name": recipe.name,
        "source": _source(recipe),
        "folder": run.folder.resolve().name,
        "started": str(environment.get("started", ""))[:16].replace("T", " "),
        "headline": _headline(run),
        "facts": _facts(run),
        "missing": run.missing,
        "doctor": _doctor(run),
        "charts": charts(run),
        "lr_range": _lr_range(run),
        "changes": _changes(recipe),
        "recipe_text": to_toml(recipe),
        "environment": {k: _text(v) for k, v in environment.items() if v is not None},
        "label_issues": [
            {k: _rounded(v) if k in _SHARES else v for k, v in row.items()}
            for row in run.label_issues
        ],
        "notes": list(run.summary.data.notes) if run.summary else [],
        "has_images": run.predictions is not None,
        "atlases": atlases(run),
        "method": run.gallery.method if run.gallery else None,
    }
    return context, script_data(run, run.predictions) if run.predictions else None


# --- words and numbers ----------------------------------------------------------------------


def percent(share: float, digits: int = 2) -> str:
    """Return a share as text: 0.9167 as `91.67 %`."""
    return f"{100 * share:.{digits}f} %"


def duration(secs: float) -> str:
    """Return a time as text: `41 s`, `7 min 32 s` or `2 h 05 min`."""
    if secs < 99.5:
        return f"{secs:.0f} s" if secs >= 9.95 else f"{secs:.1f} s"
    minutes, rest = divmod(round(secs), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _source(recipe: Recipe) -> str:
    return Path(recipe.data.source).name or recipe.data.source


def _headline(run: Run) -> dict[str, str] | None:
    """The test accuracy, or where there is none that of validation."""
    summary = run.summary
    for result, what in (
        (summary and summary.test, "test accuracy"),
        (summary and summary.validation, "validation accuracy"),
    ):
        if result:
            accuracy = result.accuracy
            interval = f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f} %"
            return {
                "value": f"{100 * accuracy.value:.2f}",
                "what": what,
                "interval": f"95 % interval {interval}, n = {accuracy.n:,}",
            }
    return None


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """What, how much, and a remark."""
    summary, epochs = run.summary, run.recipe.schedule.epochs
    if summary is None:
        return [("Epochs", f"{len(run.history.epochs)} of {epochs}", "so far")]
    best = summary.best_epoch
    kept = f"weights of epoch {best}, by {summary.selected_by}" if best else "none finished"
    data = summary.data
    return [
        *_test_facts(summary, run.recipe),
        ("Training time", duration(summary.train_secs), _place(run.environment or {})),
        ("Parameters", f"{summary.model.parameters:,}", summary.model.name),
        ("Epochs", f"{summary.epochs} of {epochs}", kept),
        (
            "Training images",
            f"{data.train:,}",
            f"{data.val:,} for validation, {data.test:,} to test",
        ),
    ]


def _test_facts(summary: Summary, recipe: Recipe) -> list[tuple[str, str, str]]:
    facts: list[tuple[str, str, str]] = []
    test, validation = summary.test, summary.validation
    if test is None:
        return facts
    if validation:
        accuracy = validation.accuracy
        ends = f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f} %, n = {accuracy.n:,}"
        facts.append(("Validation", percent(accuracy.value), ends))
    facts.append(("Test loss", f"{test.loss:.3f}", "cross entropy, mean"))
    error = percent(test.calibration.ece, 1)
    facts.append(("Calibration error", error, "expected (ECE)"))
    if views := recipe.evaluation.views:
        facts.append(("Test-time views", views.split()[0], views.partition(" ")[2]))
    return facts


def _place(environment: dict[str, Any]) -> str:
    if environment.get("device") == "cpu":
        return f"CPU, {environment.get('threads')} threads"
    return f"{environment.get('gpu') or environment.get('device', 'unknown device')}"


def _doctor(run: Run) -> list[tuple[str, str]]:
    """What may have gone wrong, and what to do about it, as sentences."""
    of_training = {name: check for name, check in RUN_CHECKS.items() if name != "finished"}
    issues = apply_checks(run, of_training).issues
    lines = ((issue.message, issue.fix) for issue in issues)
    return [(f"{a[0].upper()}{a[1:]}.", f"{b[0].upper()}{b[1:]}.") for a, b in lines]


def _lr_range(run: Run) -> str | None:
    """The range test in a line: what it recommends for this schedule, and what was used."""
    curve = run.lr_curve
    if curve is None:
        return None
    what, rate = "peak", curve.peak
    if run.recipe.schedule.holds_rate:
        what, rate = "rate to hold", curve.constant
    used = getattr(run.recipe.optimizer, "lr", None)
    recommended = "none" if rate is None else f"{rate:.3g}"
    note = f"Recommended {what}: {recommended}."
    return note if used is None else f"{note} This run used {used:.3g}."


def _changes(recipe: Recipe) -> dict[str, Any]:
    """What differs from `base`, why the named recipe has it so, and what was changed for this run.

    A setting that the named recipe does not have so is `here`, and `why` says that it was set for
    this run. Of a recipe that does not come with resight no reasons are known, nor what it rests
    on: `preset` is None, every `why` is empty and nothing is `here`.
    """
    preset = PRESETS.get(recipe.name)
    base = load_recipe("base")
    own = differences(recipe, load_recipe(recipe.name)) if preset else {}
    reasons: dict[str, str] = {}
    above = preset
    while above is not None:
        for path, (_, why) in above.changes.items():
            reasons.setdefault(path, why)
        above = PRESETS.get(above.base) if above.base else None
    rows = []
    for path, (old, new) in differences(recipe, base).items():
        parts = path.split(".")
        if path == "name" or not _has(recipe, parts):
            continue  # a setting of another kind of network, optimizer or schedule
        stems = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        why = next((reasons[stem] for stem in stems if stem in reasons), "")
        here = path in own
        rows.append(
            {
                "path": path,
                "base": _text(old),
                "value": _text(new),
                "here": here,
                "why": "set for this run" if here else why,
            }
        )
    return {"preset": recipe.name if preset else None, "rows": rows}


_SHARES = ("p_given", "p_suggested", "margin")  # columns of label_issues.csv


def _rounded(cell: str) -> str:
    """A share with three digits; what is no share stays as it is."""
    return f"{float(cell):.3f}" if re.fullmatch(r"-?[01]\.\d+(e-\d+)?", cell) else cell


def _has(section: object, path: list[str]) -> bool:
    for name in path:
        if not hasattr(section, name):
            return False
        section = getattr(section, name)
    return True


def _text(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return " ".join(map(_text, value))
        case dict():
            return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
        case _:
            return str(value)
