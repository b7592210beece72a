"""Why a network was wrong: the causes of its mistakes, each with the test that it passed.

A cause is a hypothesis with a test, which is kept with it: a change of the pictures, or a look at
the training images. docs/causes.md says which tests have a p-value. A mistake gets the first cause
that explains it, in the order of `_SEARCHES`: what one can point at in the data comes before what
says less. Mistakes that no cause explains stay unexplained.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

from ...events import OnEvent, Progress, show_events
from ...runs.causes import Cause, Causes
from ..steps import ExplainInputs
from .chance import number
from .groups import mistake_groups
from .inputs import CauseInputs
from .labels import near_copy_causes, wrong_label_causes
from .network import prior_causes, prior_notes, training_causes
from .overlap import between_causes, inseparable_causes, outlier_causes
from .properties import property_causes
from .shortcuts import shortcut_causes
from .turns import turn_causes

_SEARCHES: tuple[tuple[str, Callable[[CauseInputs], list[Cause]]], ...] = (
    ("near copies", near_copy_causes),
    ("shortcuts", shortcut_causes),
    ("turned pictures", turn_causes),
    ("properties", property_causes),
    ("classes that are one", inseparable_causes),
    ("wrong labels", wrong_label_causes),
    ("pictures between classes", between_causes),
    ("the prior", prior_causes),
    ("outliers", outlier_causes),
)


def find_causes(explained: ExplainInputs, *, on_event: OnEvent = show_events) -> Causes:
    """Return the causes of the mistakes of a run, and groups of mistakes that lie together.

    Raises:
        UsageError: the network has no linear layer, whose input says what is near.
    """
    inputs = CauseInputs(explained)
    if not len(inputs.wrong):
        return Causes(mistakes=0, causes=(), groups=())
    claims: list[Cause] = []
    for k, (name, search) in enumerate(_SEARCHES):
        on_event(Progress(f"causes: {name}", k, len(_SEARCHES)))
        claims += search(inputs)
    last, notes = training_causes(inputs)
    return Causes(
        mistakes=len(inputs.wrong),
        causes=_one_each([*claims, *last]),
        groups=tuple(mistake_groups(inputs)),
        notes=(*prior_notes(inputs), *notes),
    )


def _one_each(claims: Collection[Cause]) -> tuple[Cause, ...]:
    """Leave each mistake to its first cause; the cause that explains most comes first.

    What the network has not learned comes last: it says least of what to do. A shortcut stays also
    if it explains nothing: the test set has it too, and hides it. A property most of whose mistakes
    have a cause is that cause seen again: ships with a red cast have strong colors. `{mistakes}` in
    a sentence becomes their number, such as "12 mistakes".
    """
    taken: set[int] = set()
    causes = []
    for claim in claims:
        rows = tuple(row for row in claim.rows if row not in taken)
        if claim.kind in ("property", "rare") and len(rows) < len(claim.rows) / 2:
            continue
        taken.update(rows)
        if rows or claim.kind == "shortcut":
            sentence = claim.sentence.replace("{mistakes}", number(len(rows), "mistake"))
            causes.append(replace(claim, rows=rows, sentence=sentence))
    return tuple(sorted(causes, key=lambda cause: (cause.kind == "training", -len(cause.rows))))
