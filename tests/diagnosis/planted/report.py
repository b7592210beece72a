"""Count what the doctor finds in the planted trainings.

`PYTHONPATH=tests/diagnosis python -m planted.report` prints the count, and what it is made of.
"""

import inspect
from dataclasses import dataclass

import resight
from resight.errors import UsageError

from .correct import CORRECT
from .errors_of_data import AUGMENT_ERRORS, DATA_ERRORS, VALIDATION_ERRORS
from .errors_of_losses import LOSS_ERRORS, SetUp
from .errors_of_models import MODEL_ERRORS
from .errors_of_steps import OPTIMIZER_ERRORS, SCHEDULE_ERRORS, STEP_ERRORS

ERRORS = {
    **MODEL_ERRORS,
    **LOSS_ERRORS,
    **OPTIMIZER_ERRORS,
    **SCHEDULE_ERRORS,
    **STEP_ERRORS,
    **DATA_ERRORS,
    **VALIDATION_ERRORS,
    **AUGMENT_ERRORS,
}


@dataclass(frozen=True)
class Judgement:
    """What the doctor says about a training."""

    issues: tuple[tuple[str, str, str], ...]  # severity, check, message
    raised: tuple[str, ...]  # checks that could not be made because of an exception

    def names(self, *severities: str) -> set[str]:
        """Return the checks that have an issue of one of the severities."""
        return {check for severity, check, _ in self.issues if severity in severities}


def judge(set_up: SetUp) -> Judgement:
    """Diagnose a training."""
    arguments = set_up()
    known = inspect.signature(resight.diagnose).parameters
    try:
        diagnosis = resight.diagnose(**{k: v for k, v in arguments.items() if k in known})
    except UsageError as error:
        return Judgement((("error", "UsageError", str(error)),), ())
    issues = ((i.severity, i.check.partition(" ")[0], i.message) for i in diagnosis.issues)
    raised = (f"{name}: {why}" for name, why in diagnosis.skipped.items() if "Error: " in why)
    return Judgement(tuple(issues), tuple(raised))


def is_found(name: str, judgement: Judgement) -> bool:
    """Whether an issue of the planted error is among those of the doctor."""
    return bool(judgement.names("error", "warning", "note") & set(ERRORS[name][0]))


def main() -> None:
    """Print the errors that were missed, the issues of correct trainings, and the counts."""
    num_found = num_errors = num_warnings = 0
    for name, (checks, set_up) in ERRORS.items():
        judgement = judge(set_up)
        num_found += is_found(name, judgement)
        if not is_found(name, judgement):
            print(f"missed {name}: {', '.join(checks)}; issues: {judgement.issues}")
        if extra := judgement.names("error", "warning") - set(checks):
            print(f"       {name}: also {', '.join(sorted(extra))}")
        for raised in judgement.raised:
            print(f"raised {name}: {raised}")
    for name, set_up in CORRECT.items():
        judgement = judge(set_up)
        num_errors += bool(judgement.names("error"))
        num_warnings += bool(judgement.names("warning")) and not judgement.names("error")
        for severity, check, message in judgement.issues:
            print(f"{severity:8} {name}: {check}: {message}")
        for raised in judgement.raised:
            print(f"raised {name}: {raised}")
    print(
        f"{num_found} of {len(ERRORS)} errors are found; of {len(CORRECT)} correct trainings "
        f"{num_errors} have a false error, and {num_warnings} a warning"
    )


if __name__ == "__main__":
    main()
