"""What a check-up found: faults, doubts, and what was looked at and is well."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be; one line each."""

    check: str
    grade: Literal["fault", "doubt"]
    what: str  # what was seen, with its numbers
    mend: str


def fault(what: str, mend: str) -> Finding:
    """What is hardly ever meant; `examine` adds the name of the check."""
    return Finding("", "fault", what, mend)


def doubt(what: str, mend: str) -> Finding:
    """What may be as intended, and often is not."""
    return Finding("", "doubt", what, mend)


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What came of a check-up; printed, it is a list, the faults first."""

    findings: tuple[Finding, ...]
    well: tuple[str, ...]  # checks that found nothing
    left_out: Mapping[str, str]  # check -> why it could not be made

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Without the doubts."""
        return tuple(of for of in self.findings if of.grade == "fault")

    def __repr__(self) -> str:
        lines = []
        for of in self.findings:
            lines += [f"{of.grade}  {of.check}: {of.what}", f"       {of.mend}"]
        if self.well:
            lines.append(f"well   {', '.join(self.well)}")
        lines += [f"not    {check}: {why}" for check, why in self.left_out.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "findings": [asdict(of) for of in self.findings],
            "well": list(self.well),
            "left_out": dict(self.left_out),
        }

    def __add__(self, other: "Diagnosis") -> "Diagnosis":
        """Both, the faults of either first."""
        return _sorted(
            self.findings + other.findings,
            self.well + other.well,
            {**self.left_out, **other.left_out},
        )


class LeftOut(Exception):
    """A check cannot be made; the message says what it needs."""


def examine(
    subject: Subject,
    checks: Mapping[str, Callable[[Subject], Iterable[Finding]]],
    *,
    of_others: bool = False,
) -> Diagnosis:
    """Every check of the subject, in order. A check yields findings, and may raise LeftOut.

    What it found before that counts. `of_others`: the checks run code that is not ours (losses,
    transforms, modules), which may raise anything at what it was not made for; that leaves the
    check out.
    """
    findings: list[Finding] = []
    well: list[str] = []
    left_out = {}
    for name, check in checks.items():
        before = len(findings)
        try:
            for finding in check(subject):
                findings.append(replace(finding, check=name))  # noqa: PERF401 - if the next raises
        except LeftOut as why:
            left_out[name] = str(why)
        except Exception as error:
            if not of_others:
                raise
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            if len(findings) == before:
                well.append(name)
    return _sorted(tuple(findings), tuple(well), left_out)


def _sorted(
    findings: tuple[Finding, ...], well: tuple[str, ...], left_out: Mapping[str, str]
) -> Diagnosis:
    faults_first = sorted(findings, key=lambda of: of.grade == "doubt")
    return Diagnosis(tuple(faults_first), well, left_out)
