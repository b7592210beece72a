"""The content of the page: words and numbers for the template, and data for the script."""

from typing import Any

from ..diagnosis.issues import apply_checks
from ..diagnosis.run_checks import RUN_CHECKS
from ..metrics.classification import MAX_CLASSES
from ..metrics.intervals import Interval
from ..recipe import Recipe
from ..recipe.presets import PRESETS, load_recipe
from ..recipe.sources import source_name
from ..recipe.toml import differences, to_toml
from ..runs.run import Run
from .charts import charts
from .script_data import atlases, script_data
from .why import label_lines, why


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
        "trained": _trained(run),
        "doctor": _doctor(run) if _trained(run) else [],
        "charts": charts(run),
        "class_scores": _class_scores(run),
        "confidence": _confidence(run),
        "lr_range": _lr_range(run),
        "changes": _changes(recipe),
        "recipe_text": to_toml(recipe),
        "environment": {k: _text(v) for k, v in environment.items() if v is not None},
        "why": why(run),
        "label_issues": label_lines(run.label_issues),
        "notes": list(run.summary.data.notes) if run.summary else [],
        "has_images": run.predictions is not None,
        "atlases": atlases(run),
        "method": run.gallery.method if run.gallery else None,
    }
    return context, script_data(run, run.predictions) if run.predictions else None


# --- words and numbers ----------------------------------------------------------------------


def duration(secs: float) -> str:
    """Return a time as text: `41 s`, `7 min 32 s` or `2 h 05 min`."""
    if secs < 99.5:
        return f"{secs:.0f} s" if secs >= 9.95 else f"{secs:.1f} s"
    minutes, rest = divmod(round(secs), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _source(recipe: Recipe) -> str:
    return source_name(recipe.data.source)


def _interval(accuracy: Interval) -> str:
    ends = f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f}"
    return f"{ends}\u00a0%, n\u00a0=\u00a0{accuracy.n:,}"  # a line does not break there


_METRICS = {"test": "test accuracy", "train": "out-of-fold accuracy", "images": "accuracy"}


def _trained(run: Run) -> bool:
    """Whether it is a training, and not predictions alone."""
    return run.summary is None or run.summary.predicted == "test"


def _headline(run: Run) -> dict[str, str] | None:
    """The test accuracy, or the validation accuracy if the test set was not read."""
    summary = run.summary
    result = summary and (summary.test or summary.validation)
    if not summary or not result:
        return None
    return {
        "value": f"{100 * result.accuracy.value:.2f}",
        "metric": _METRICS[summary.predicted] if summary.test else "validation accuracy",
        "interval": f"95 % interval {_interval(result.accuracy)}",
    }


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """Name, value and remark of each fact in the header."""
    summary, epochs, environment = run.summary, run.recipe.schedule.epochs, run.environment or {}
    if summary is None:
        return [("Epochs", f"{len(run.history.epochs)} of {epochs}", "so far")]
    facts = []
    if test := summary.test:
        if summary.validation:
            accuracy = summary.validation.accuracy
            facts.append(("Validation", f"{100 * accuracy.value:.2f} %", _interval(accuracy)))
        if test.imbalanced and (balanced := test.balanced_accuracy):
            value = f"{100 * balanced.value:.2f} %"
            facts.append(("Balanced accuracy", value, f"mean of classes, {_interval(balanced)}"))
        if test.top5:
            facts.append(("Top-5 accuracy", f"{100 * test.top5.value:.2f} %", _interval(test.top5)))
        loss = "Test loss" if _trained(run) else "Loss"
        facts.append((loss, f"{test.loss:.3f}", "cross entropy, mean"))
        facts.append(("Calibration error", f"{100 * test.calibration.ece:.1f} %", "expected (ECE)"))
        if views := run.recipe.evaluation.views:
            number, _, rest = views.partition(" ")
            facts.append(("Test-time views", number, rest))
    if not _trained(run):
        count = f"{len(run.predictions or ()):,}"
        return [*facts, ("Images", count, ""), ("Classes", f"{summary.data.classes:,}", "")]
    place = str(environment.get("gpu") or environment.get("device", "unknown device"))
    if place == "cpu":
        place = f"CPU, {environment.get('threads')} threads"
    best, data = summary.best_epoch, summary.data
    weights = summary.kept if best else "none finished"
    images = f"{data.val:,} for validation, {data.test:,} to test"
    return [
        *facts,
        ("Training time", duration(summary.train_secs), place),
        ("Parameters", f"{summary.model.parameters:,}", summary.model.name),
        ("Epochs", f"{summary.epochs} of {epochs}", weights),
        ("Training images", f"{data.train:,}", images),
    ]


def _class_scores(run: Run) -> dict[str, Any] | None:
    """Precision, recall and F1 of the classes in percent, the lowest F1 first, and their means."""
    test = run.summary and run.summary.test
    if not test or not test.f1 or not test.balanced_accuracy:
        return None
    f1 = {name: interval.value if interval else 2.0 for name, interval in test.f1.items()}
    names = sorted(f1, key=f1.__getitem__)
    columns = (test.precision, test.per_class, test.f1)
    means = (test.macro_precision, test.balanced_accuracy.value, test.macro_f1)
    return {
        "rows": [
            (name, [_cell(column[name]) for column in columns]) for name in names[:MAX_CLASSES]
        ],
        "means": [f"{100 * (mean or 0.0):.2f}" for mean in means],
        "left": len(names[MAX_CLASSES:]),
    }


def _confidence(run: Run) -> dict[str, Any] | None:
    """The calibration error before and after the temperature, and what sure answers are worth."""
    summary = run.summary
    if summary is None or summary.confidence is None or summary.calibration is None:
        return None
    coverage = summary.confidence.coverage
    return {
        "text": _sentence(summary.calibration),
        "rows": [
            (f"{row.threshold:g}", _cell(row.coverage), _cell(row.accuracy)) for row in coverage
        ],
    }


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    ends = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return f"{100 * interval.value:.1f} ({ends}, n = {interval.n:,})"


def _doctor(run: Run) -> list[tuple[str, str]]:
    """The doctor's warnings about the training, and the fix of each, as sentences."""
    checks = {name: check for name, check in RUN_CHECKS.items() if name != "finished"}
    issues = apply_checks(run, checks).issues
    return [(_sentence(issue.message), _sentence(issue.fix)) for issue in issues]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _lr_range(run: Run) -> str | None:
    """The range test in a line: the recommended rate for this schedule, and the rate of the run."""
    curve = run.lr_curve
    if curve is None:
        return None
    name, rate = "peak", curve.peak
    if run.recipe.schedule.holds_rate:
        name, rate = "rate to hold", curve.constant
    recommended = "none" if rate is None else f"{rate:.3g}"
    return f"Recommended {name}: {recommended}. This run used {run.recipe.optimizer.lr:.3g}."


def _changes(recipe: Recipe) -> dict[str, Any]:
    """The settings that differ from `base`, with the reasons that the named recipe gives.

    A setting that was changed for this run alone is `here`. The reasons of a recipe that does not
    come with resight are not known: `preset` is None, every `why` is empty and nothing is `here`.
    """
    preset = PRESETS.get(recipe.name)
    own = differences(recipe, load_recipe(recipe.name)) if preset else {}
    reasons: dict[str, str] = {}
    above = preset
    while above is not None:
        reasons = {path: why for path, (_, why) in above.changes.items()} | reasons
        above = PRESETS.get(above.base) if above.base else None
    rows = []
    for path, (old, new) in differences(recipe, load_recipe("base")).items():
        parts = path.split(".")
        if path == "name" or not _has(recipe, parts):
            continue  # a setting of another kind of network, optimizer or schedule
        stems = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        why = next((reasons[stem] for stem in stems if stem in reasons), "")
        here = path in own
        if here:
            why = "set for this run"
        row = {"path": path, "base": _text(old), "value": _text(new), "here": here, "why": why}
        rows.append(row)
    return {"preset": recipe.name if preset else None, "rows": rows}


def _has(section: object, path: list[str]) -> bool:
    """Whether a recipe has a setting; a subsection that is turned off has all of its settings."""
    for name in path:
        if not hasattr(section, name):
            return section is None
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
