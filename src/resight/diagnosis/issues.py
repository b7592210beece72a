"""Issues, the result of a diagnosis, and the loop that applies checks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar, get_args

Subject = TypeVar("Subject")
Severity = Literal["error", "warning", "note"]
Check = Callable[[Subject], Iterable["Issue"]]


@dataclass(frozen=True)
class Issue:
    """One problem that a check found: an error is hardly ever intended, a warning may be.

    A note is a matter of taste, or of what the check cannot know.
    """

    check: str
    severity: Severity
    message: str  # the problem, with its numbers
    fix: str


def error(message: str, fix: str) -> Issue:
    """Return an issue that is hardly ever intended; `apply_checks` adds the name of the check."""
    return Issue("", "error", message, fix)


def warning(message: str, fix: str) -> Issue:
    """Return an issue that may be intended, and often is not."""
    return Issue("", "warning", message, fix)


def note(message: str, fix: str) -> Issue:
    """Return an issue that many good trainings have, and that may cost a little."""
    return Issue("", "note", message, fix)


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The result of the checks; printed, it lists issues, then passed and skipped checks."""

    issues: tuple[Issue, ...]  # errors first, notes last
    passed: tuple[str, ...]  # checks without an issue
    skipped: Mapping[str, str]  # check -> what it needs

    def __post_init__(self) -> None:
        order = get_args(Severity)
        by_severity = sorted(self.issues, key=lambda issue: order.index(issue.severity))
        object.__setattr__(self, "issues", tuple(by_severity))

    @property
    def errors(self) -> tuple[Issue, ...]:
        """The issues that are hardly ever intended."""
        return self._with("error")

    @property
    def warnings(self) -> tuple[Issue, ...]:
        """The issues that may be intended."""
        return self._with("warning")

    @property
    def notes(self) -> tuple[Issue, ...]:
        """The issues that many good trainings have."""
        return self._with("note")

    def _with(self, severity: Severity) -> tuple[Issue, ...]:
        return tuple(issue for issue in self.issues if issue.severity == severity)

    def __repr__(self) -> str:
        lines = []
        for issue in self.issues:
            lines.append(f"{issue.severity:8} {issue.check}: {issue.message}")
            lines.append(f"         fix: {issue.fix}")
        if self.passed:
            lines.append(f"passed   {', '.join(self.passed)}")
        for reason in dict.fromkeys(self.skipped.values()):
            checks = [check for check, why in self.skipped.items() if why == reason]
            lines.append(f"skipped  {', '.join(checks)}: {reason}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain Python, fit for JSON."""
        return {
            "issues": [asdict(issue) for issue in self.issues],
            "passed": list(self.passed),
            "skipped": dict(self.skipped),
        }

    def __add__(self, other: "Diagnosis") -> "Diagnosis":
        """Return both as one."""
        skipped = {**self.skipped, **other.skipped}
        return Diagnosis(self.issues + other.issues, self.passed + other.passed, skipped)


class Skipped(Exception):
    """A check cannot be made; the message says what it needs."""


def by_name(*checks: Check[Subject]) -> dict[str, Check[Subject]]:
    """Return the checks by the name of each: that of its function, with hyphens."""
    return {check.__name__.replace("_", "-"): check for check in checks}


def apply_checks(
    subject: Subject, checks: Mapping[str, Check[Subject]], *, foreign_code: bool = False
) -> Diagnosis:
    """Apply every check to the subject, in order.

    A check yields issues, and may raise Skipped; the issues before that count. With `foreign_code`,
    checks run losses, transforms and modules that are not part of resight: a check in which such
    code raises an error is skipped too.
    """
    issues: list[Issue] = []
    passed: list[str] = []
    skipped = {}
    for name, check in checks.items():
        before = len(issues)
        try:
            for issue in check(subject):
                issues.append(replace(issue, check=name))  # noqa: PERF401 - if the next raises
        except Skipped as reason:
            skipped[name] = str(reason)
        except Exception as error:
            if not foreign_code:
                raise
            skipped[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            if len(issues) == before:
                passed.append(name)
    return Diagnosis(tuple(issues), tuple(passed), skipped)


def first_names(names: Iterable[str], limit: int = 3) -> str:
    """Return the first few names as text, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
