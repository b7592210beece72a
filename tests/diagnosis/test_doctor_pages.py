"""A page for each check of the doctor and their list, made from docstrings; each example is run.

`PYTHONPATH=tests python tests/diagnosis/test_doctor_pages.py` writes the pages.
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
from own_loop import Net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import resight
from resight.cli.app import main
from resight.diagnosis.augment_checks import augment
from resight.diagnosis.dataset_checks import DATASET_CHECKS
from resight.diagnosis.dataset_probe import DatasetProbe
from resight.diagnosis.diagnose import OBJECT_CHECKS
from resight.diagnosis.doctor import NETWORK_CHECKS
from resight.diagnosis.issues import apply_checks
from resight.diagnosis.recipe_checks import RECIPE_CHECKS
from resight.diagnosis.run_checks import RUN_CHECKS

DOCS = Path(__file__).parents[2] / "docs" / "doctor"
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


def overview() -> str:
    """Return the page that lists every check with its first sentence."""
    parts = ["# The checks of the doctor", "See [the doctor](../doctor.md) for how to run them."]
    for kind, checks in KINDS.items():
        rows = [f"| [{name}]({name}.md) | {summary(check)} |" for name, check in checks.items()]
        parts.append(f"## Checks of {kind}")
        parts.append("\n".join(["| check | what it does |", "| --- | --- |", *rows]))
    parts.append(f"The network of a recipe is also checked by {', '.join(NETWORK_CHECKS)}.")
    return "\n\n".join(parts) + "\n"


PAGES = {name: page(name, kind) for kind, checks in KINDS.items() for name in checks}
PAGES["README"] = overview()


def test_names_are_unique() -> None:
    assert len(CHECKS) == sum(map(len, KINDS.values()))


@pytest.mark.parametrize("name", PAGES)
def test_every_check_has_its_page(name: str) -> None:
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == PAGES[name]


def test_there_is_no_page_without_a_check() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == set(PAGES)


def test_a_summary_is_a_sentence() -> None:
    assert [n for n, check in CHECKS.items() if not re.match(r"Check .*\.$", summary(check))] == []


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
    optional = ("scheduler", "steps", "val_batches", "augment", "step")
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
    names: dict[str, Any] = {
        "digits": resight.data("digits"),
        "replace": replace,
        "torch": torch,
    }
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


if __name__ == "__main__":
    for page_name, text in PAGES.items():
        (DOCS / f"{page_name}.md").write_text(text, encoding="utf-8")
