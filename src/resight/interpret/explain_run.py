"""Explain a finished run: its mistakes, heat maps and label issues, and report.html.

`Predictions -> mistakes -> layer maps -> sheets, gallery -> report.html`
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import figures, html_report
from ..datasets.originals import display_images
from ..errors import UsageError
from ..events import Message, OnEvent, Progress
from ..figures import NeighborImages
from ..files import remove_leftovers, write_csv
from ..metrics.mistakes import (
    LabelIssue,
    Mistake,
    MistakeOrder,
    csv_rows,
    group_by_pair,
    label_issues,
    mistakes,
)
from ..recipe import Explain
from ..records import Predictions
from ..runs.causes import write_causes
from ..runs.gallery import SIDE, STRIP_IMAGES, GalleryNeighbors
from ..runs.run import Run
from ..training.setup import TrainSetup
from .causes import find_causes
from .neighbors import neighbor_images
from .run_maps import draw_and_keep_maps
from .steps import ExplainInputs, StepLog

NUM_NEIGHBORS = 3  # of each class, beside a mistake


@dataclass(frozen=True)
class Explanation:
    """The mistakes and label issues of `explain`, and the files that it wrote into `folder`."""

    folder: Path
    files: tuple[str, ...]
    method: str
    layers: tuple[str, ...]  # with the size of their maps
    mistakes: tuple[Mistake, ...]
    label_issues: tuple[LabelIssue, ...]
    notes: tuple[str, ...]  # what was left out and why, one line each
    failed: tuple[str, ...] = ()  # the steps that failed, one line each
    of_pictures: bool = False  # whether it explains picture files, not the run's test set

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain Python, fit for JSON."""
        content = asdict(self)
        del content["of_pictures"]
        return content | {"folder": str(self.folder)}

    def __str__(self) -> str:
        lines = []
        if not self.of_pictures:
            lines.append(f"mistakes    {len(self.mistakes):,}")
            for (true, pred), group in list(group_by_pair(self.mistakes).items())[:5]:
                lines.append(f"  {len(group)} x {true} taken for {pred}, the worst {group[0].id}")
            lines.append(f"labels      {len(self.label_issues):,} may be wrong")
            lines += [
                f"  {issue.id}: labeled {issue.given}, suggested {issue.suggested}"
                for issue in self.label_issues[:5]
            ]
        if self.layers:
            lines.append(f"heat maps   {self.method} at {', '.join(self.layers)}")
        lines += [f"written     {self.folder / name}" for name in self.files]
        return "\n".join(lines)


def explain_finished(
    run: Run, setup: TrainSetup, predictions: Predictions, on_event: OnEvent
) -> None:
    """Explain a run that has just ended, if its recipe says so; nothing is raised.

    A step that fails gives a message. Ctrl-C ends the explanation, not the run, which is complete.
    """
    recipe, splits = setup.recipe, setup.splits
    if not recipe.explain.report:
        return
    inputs = ExplainInputs(
        setup.state.model, recipe, splits.stats, splits.train, setup.dataset.test, predictions
    )
    log, again = StepLog(), f"`resight explain {run.folder}` explains it"
    with log.step("explaining it"):
        try:
            explanation = explain_run(run, inputs, recipe.explain, on_event=on_event)
            if explanation.failed:
                on_event(Message(f"the run is complete; {again} anew"))
            return
        except KeyboardInterrupt:
            log.failed.append("explaining it was interrupted")
    with log.step("report.html"):
        html_report.write_page(run.folder)
    with log.step("on_event"):
        on_event(Message(f"the run is complete, but {'; '.join(log.failed)}; {again}"))


def explain_run(
    run: Run,
    inputs: ExplainInputs,
    options: Explain,
    *,
    rank: MistakeOrder = "loss",
    on_event: OnEvent,
) -> Explanation:
    """Explain the mistakes of a finished run, into its folder.

    If a step fails, the steps after it still run. The page is made from the files in the folder.
    """
    folder, predictions = run.folder, inputs.predictions
    remove_leftovers(folder)
    wrong = mistakes(predictions, rank=rank)
    labels = label_issues(predictions)
    log = StepLog()
    with log.step("mistakes.csv", "mistakes.csv"):
        write_csv(folder / "mistakes.csv", csv_rows(Mistake, wrong))
    with log.step("confused_pairs.png", "confused_pairs.png"):
        title = f"The most frequent mistakes, largest {rank} first in each row"
        shown = display_images(inputs.test, figures.pair_rows(wrong))
        figure = figures.pair_sheet(shown.pictures, predictions, wrong, title, notes=shown.notes)
        figures.save(figure, folder / "confused_pairs.png")
    with log.step("label_issues.csv", "label_issues.csv"):
        write_csv(folder / "label_issues.csv", csv_rows(LabelIssue, labels))
    with log.step("label_issues.png"):
        _draw_label_issues(folder, inputs, labels[: options.images], on_event, log)
    _write_causes_of(run, inputs, on_event, log)
    neighbors = _neighbors_of_mistakes(run, inputs, wrong, log)
    layers = draw_and_keep_maps(
        folder, inputs, options, rank=rank, on_event=on_event, log=log, neighbors=neighbors
    )
    with log.step("report.html", "report.html"):
        html_report.write_page(folder)
    for line in (*log.notes, *log.failed):
        on_event(Message(line))
    return Explanation(
        folder=folder,
        files=tuple(log.files),
        method=options.method,
        layers=layers,
        mistakes=tuple(wrong),
        label_issues=tuple(labels),
        notes=tuple(log.notes),
        failed=tuple(log.failed),
    )


def _write_causes_of(run: Run, inputs: ExplainInputs, on_event: OnEvent, log: StepLog) -> None:
    """Write `causes.json` and `causes.csv`; those of an earlier explanation go in any case."""
    files = ("causes.json", "causes.csv")
    with log.step("causes.json"):
        for name in files:
            (run.folder / name).unlink(missing_ok=True)
        try:
            if not len(inputs.train):
                raise UsageError("there are no training images to look for them in")
            causes = find_causes(inputs, on_event=on_event)
        except UsageError as error:
            log.notes.append(f"mistakes without causes: {error}")
            return
        write_causes(run.folder, causes, inputs.predictions)
        log.files.extend(files)


def _neighbors_of_mistakes(
    run: Run, inputs: ExplainInputs, wrong: Sequence[Mistake], log: StepLog
) -> GalleryNeighbors | None:
    """The training images nearest to each mistake, for the page: those of the causes come first.

    None if the network has no features to compare by, or if nothing is wrong.
    """
    worst = [mistake.row for mistake in wrong]
    causes, predictions = Run(run.folder).causes, inputs.predictions
    groups = causes.groups if causes else ()
    parts = [*(cause.rows for cause in causes.causes), *(x.rows for x in groups)] if causes else []
    others = [row for group in groups for side in group.neighbors for row in side]
    rows = [*(row for part in parts for row in part[:STRIP_IMAGES]), *worst]
    order = np.array([*dict.fromkeys(rows)], dtype=np.int64)
    order = order[~predictions.correct[order]]
    pairs = [(predictions.preds[row], predictions.labels[row]) for row in order]
    if not pairs:
        return None
    with log.step("neighbors of mistakes"), suppress(UsageError):  # which the label issues say
        nearest, cosines = inputs.features.nearest(order, pairs, k=NUM_NEIGHBORS)
        return GalleryNeighbors(
            order,
            nearest,
            cosines,
            others=np.array(others, dtype=np.int64),
            ids=inputs.train.ids,
            read=lambda rows: display_images(inputs.train, rows, px=SIDE).pictures,
        )
    return None


def _draw_label_issues(
    folder: Path,
    inputs: ExplainInputs,
    issues: Sequence[LabelIssue],
    on_event: OnEvent,
    log: StepLog,
) -> None:
    """Draw `label_issues.png`: each issue beside its nearest training images of both classes."""
    (folder / "label_issues.png").unlink(missing_ok=True)
    if not issues:
        return
    on_event(Progress("comparing with training images", 0, None))
    rows = np.array([issue.row for issue in issues])
    names = inputs.predictions.classes
    pairs = [(names.index(issue.given), names.index(issue.suggested)) for issue in issues]
    neighbors: list[tuple[NeighborImages, NeighborImages]] = []
    note = ""
    with log.step("neighbors of label issues"):
        try:
            nearest = inputs.features.nearest(rows, pairs, k=NUM_NEIGHBORS)
            neighbors = neighbor_images(inputs.train, *nearest)
            note = inputs.features.note
        except UsageError as error:
            log.notes.append(f"label issues without neighbors: {error}")
    title = "Is it the label? The most suspicious first"
    shown = display_images(inputs.test, rows)
    notes = [*shown.notes, *([note] if note else [])]
    figure = figures.label_issue_sheet(shown.pictures, issues, neighbors, title, notes=notes)
    figures.save(figure, folder / "label_issues.png")
    log.files.append("label_issues.png")
