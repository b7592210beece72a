"""What a check-up found: faults, doubts, and what was looked at and is well."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong, or may be; one line each."""

    check: str
    grade: Literal["fault", "doubt"]
    what: str  # what was seen, with its numbers
    fix: str


def error(what: str, fix: str) -> Issue:
    """What is hardly ever meant; `apply_checks` adds the name of the check."""
    return Issue("", "fault", what, fix)


def warning(what: str, fix: str) -> Issue:
    """What may be as intended, and often is not."""
    return Issue("", "doubt", what, fix)


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What came of a check-up; printed, it is a list, the faults first."""

    findings: tuple[Issue, ...]
    well: tuple[str, ...]  # checks that found nothing
    skipped: Mapping[str, str]  # check -> why it could not be made

    @property
    def faults(self) -> tuple[Issue, ...]:
        """Without the doubts."""
        return tuple(of for of in self.findings if of.grade == "fault")

    def __repr__(self) -> str:
        lines = []
        for of in self.findings:
            lines += [f"{of.grade}  {of.check}: {of.what}", f"       {of.fix}"]
        if self.well:
            lines.append(f"well   {', '.join(self.well)}")
        lines += [f"not    {check}: {why}" for check, why in self.skipped.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "findings": [asdict(of) for of in self.findings],
            "well": list(self.well),
            "left_out": dict(self.skipped),
        }

    def __add__(self, other: "Diagnosis") -> "Diagnosis":
        """Both, the faults of either first."""
        return _sorted(
            self.findings + other.findings,
            self.well + other.well,
            {**self.skipped, **other.skipped},
        )


class Skipped(Exception):
    """A check cannot be made; the message says what it needs."""


def apply_checks(
    subject: Subject,
    checks: Mapping[str, Callable[[Subject], Iterable[Issue]]],
    *,
    of_others: bool = False,
) -> Diagnosis:
    """Every check of the subject, in order. A check yields findings, and may raise LeftOut.

    What it found before that counts. `of_others`: the checks run code that is not ours (losses,
    transforms, modules), which may raise anything at what it was not made for; that leaves the
    check out.
    """
    findings: list[Issue] = []
    well: list[str] = []
    skipped = {}
    for name, check in checks.items():
        before = len(findings)
        try:
            for finding in check(subject):
                findings.append(replace(finding, check=name))  # noqa: PERF401 - if the next raises
        except Skipped as why:
            skipped[name] = str(why)
        except Exception as error:
            if not of_others:
                raise
            skipped[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            if len(findings) == before:
                well.append(name)
    return _sorted(tuple(findings), tuple(well), skipped)


def _sorted(
    findings: tuple[Issue, ...], well: tuple[str, ...], skipped: Mapping[str, str]
) -> Diagnosis:
    faults_first = sorted(findings, key=lambda of: of.grade == "doubt")
    return Diagnosis(tuple(faults_first), well, skipped)
