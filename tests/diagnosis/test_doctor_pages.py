"""A page for each check of the doctor, made from its docstring; each example is run.

`python tests/diagnosis/test_doctor_pages.py` writes the pages.
"""

import inspect
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import resight
from resight.cli.app import main
from resight.diagnosis.augment_checks import augment
from resight.diagnosis.dataset_checks import DATASET_CHECKS, DatasetProbe
from resight.diagnosis.diagnose import OBJECT_CHECKS
from resight.diagnosis.issues import apply_checks
from resight.diagnosis.recipe_checks import RECIPE_CHECKS
from resight.diagnosis.run_checks import RUN_CHECKS

DOCS = Path(__file__).parents[2] / "docs"
YOURS: dict[str, Callable[..., Any]] = {**OBJECT_CHECKS, "augment": augment}
KINDS: dict[str, dict[str, Callable[..., Any]]] = {
    "your own loop": YOURS,
    "a data set": {**DATASET_CHECKS},
    "a recipe on its data": {**RECIPE_CHECKS},
    "a run": {**RUN_CHECKS},
}
FENCES = {"your own loop": "python", "a data set": "python", "a recipe on its data": ""}
CHECKS = {name: check for checks in KINDS.values() for name, check in checks.items()}


def sections(check: Callable[..., Any]) -> dict[str, str]:
    """Return the docstring of a check by its headings; the part before the first is ""."""
    parts = re.split(r"^(Why is this bad|Example|Fix):$", inspect.getdoc(check) or "", flags=re.M)
    texts = [inspect.cleandoc("\n" + part) for part in parts[2::2]]
    return {"": parts[0].strip(), **dict(zip(parts[1::2], texts, strict=True))}


def summary(check: Callable[..., Any]) -> str:
    """Return the first sentence of a check."""
    return sections(check)[""].partition("\n")[0]


def page(name: str, kind: str) -> str:
    """Return the page of a check under its four headings."""
    parts = sections(CHECKS[name])
    example = parts["Example"]
    if kind in FENCES:
        example = f"```{FENCES[kind]}\n{example}\n```"
    texts = {
        "What it does": parts[""],
        "Why is this bad": parts["Why is this bad"],
        "Example": example,
        "Fix": parts["Fix"],
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in texts.items())
    return f"# {name}\n\nA check of {kind}; see [the doctor](../doctor.md).\n\n{body}\n"


PAGES = {name: page(name, kind) for kind, checks in KINDS.items() for name in checks}


def table(kind: str) -> str:
    """Return the table of the checks of a kind, as docs/doctor.md has it."""
    rows = [f"| [{name}](doctor/{name}.md) | {summary(CHECKS[name])} |" for name in KINDS[kind]]
    return "\n".join(["| check | what it does |", "| --- | --- |", *rows])


def test_names_are_unique() -> None:
    assert len(CHECKS) == sum(map(len, KINDS.values()))


@pytest.mark.parametrize("name", PAGES)
def test_every_check_has_its_page(name: str) -> None:
    assert (DOCS / "doctor" / f"{name}.md").read_text(encoding="utf-8") == PAGES[name]
    assert summary(CHECKS[name]).startswith("Check ")
    assert summary(CHECKS[name]).endswith(".")


def test_there_is_no_page_without_a_check() -> None:
    assert {path.stem for path in (DOCS / "doctor").glob("*.md")} == set(PAGES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_overview_lists_every_check(kind: str) -> None:
    assert table(kind) in (DOCS / "doctor.md").read_text(encoding="utf-8")


class Net(nn.Module):
    """The model of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(F.relu(self.norm(self.conv(images))).mean(dim=(2, 3)))
        return outputs


@pytest.mark.parametrize("name", YOURS)
def test_the_example_for_your_own_loop_has_the_issue(name: str) -> None:
    torch.manual_seed(0)
    model, images, labels = Net(), torch.randn(256, 3, 16, 16), torch.arange(256) % 10
    names: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "F": F,
        "resight": resight,
        "DataLoader": DataLoader,
        "TensorDataset": TensorDataset,
        "model": model,
        "images": images,
        "labels": labels,
    }
    exec(compile(sections(YOURS[name])["Example"], name, "exec"), names)
    model = names["model"]
    optional = ("scheduler", "steps", "val_batches", "augment")
    diagnosis = resight.diagnose(
        model,
        names.get("optimizer") or torch.optim.SGD(model.parameters(), lr=0.1),
        names.get("loss_fn", F.cross_entropy),
        names.get("batches") or DataLoader(TensorDataset(images, labels), 64, shuffle=True),
        **{argument: names.get(argument) for argument in optional},
    )
    assert name in {issue.check for issue in diagnosis.issues}


@pytest.mark.parametrize("name", DATASET_CHECKS)
def test_the_example_of_a_data_set_has_the_issue(name: str) -> None:
    names: dict[str, Any] = {"digits": resight.data("digits"), "replace": replace}
    exec(compile(sections(DATASET_CHECKS[name])["Example"], name, "exec"), names)
    diagnosis = apply_checks(DatasetProbe(names["dataset"]), DATASET_CHECKS)
    assert name in {issue.check for issue in diagnosis.issues}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPE_CHECKS)
def test_the_example_of_a_recipe_has_the_issue(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = sections(RECIPE_CHECKS[name])["Example"]
    assert main([*shlex.split(command)[1:], "--quiet"]) in (0, 1)
    assert re.search(rf"^(error  |warning)  {name}: ", capsys.readouterr().out, re.MULTILINE)


def write() -> None:
    """Write every page, and the tables of the overview."""
    for name, text in PAGES.items():
        (DOCS / "doctor" / f"{name}.md").write_text(text, encoding="utf-8")
    overview = (DOCS / "doctor.md").read_text(encoding="utf-8")
    tables = iter(map(table, KINDS))
    rows = r"^\| check \|.*\n\| --- .*(?:\n\|.*)*"
    overview = re.sub(rows, lambda _: next(tables), overview, flags=re.MULTILINE)
    (DOCS / "doctor.md").write_text(overview, encoding="utf-8")


if __name__ == "__main__":
    write()
