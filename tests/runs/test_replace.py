"""`--force`: the old run is kept until the new one has proven itself, whatever happens."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import resight
from resight.errors import Diverged, UsageError
from resight.events import EpochDone, StepDone
from resight.files import temporary_path
from resight.runs.replace import RUN_FILES
from tiny_runs import tiny_recipe

pytestmark = pytest.mark.slow  # trains runs, and kills processes that replace one

# Kills a process at each operation on files in turn, while a run is replaced; then looks at it.
KILLS = """
import os, shutil, sys
from pathlib import Path
from resight.runs.replace import put_back, put_back_if_half, remove_replaced, set_aside

work, end = Path(sys.argv[1]), sys.argv[2]
OLD = {"recipe.toml": "old", "env.json": "old", "last.pt": "old", "best.safetensors": "old",
       "gallery/gallery.json": "old", "gallery/maps-1.png": "old", "gallery/mine": "foreign",
       "evaluation-x/summary.json": "old", "mine.txt": "foreign"}
NEW = {"recipe.toml": "new", "env.json": "new", "last.pt": "new"}
FOREIGN = {name: text for name, text in OLD.items() if text == "foreign"}

def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}

def replace(folder):
    set_aside(folder)
    fill(folder, NEW)
    if end == "proven":
        fill(folder, {"best.safetensors": "new"})
        remove_replaced(folder)
    else:
        put_back(folder)

def killed_at(number):
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    fill(folder, OLD)
    child = os.fork()
    if child == 0:
        left = [number]
        def hook(event, arguments):
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
            if changes or event == "open" and arguments[1] == "w":
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
        sys.addaudithook(hook)
        replace(folder)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    put_back_if_half(folder)
    files_now = content(folder)
    kept = {name.partition("/")[2]: text for name, text in files_now.items() if ".replaced" in name}
    rest = {name: text for name, text in files_now.items() if ".replaced" not in name}
    new = FOREIGN | NEW
    whole = OLD if end == "failed" else new | {"best.safetensors": "new"}
    if code == 0:
        assert files_now == whole, files_now
    elif kept:  # the new run can be resumed, and the old one waits
        assert rest == new and kept == {n: t for n, t in OLD.items() if t == "old"}, files_now
    else:
        assert files_now in (OLD, new | {"best.safetensors": "new"}), (number, files_now)
    return code

number = 1
while killed_at(number):
    number += 1
print(number)
"""


@pytest.mark.parametrize("end", ["proven", "failed"])
def test_killed_at_any_operation_no_run_is_lost(tmp_path: Path, end: str) -> None:
    arguments = [sys.executable, "-c", KILLS, str(tmp_path), end]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 15


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_file_of_a_run_is_known(explained_copy: Path, tiny: resight.Dataset) -> None:
    resight.evaluate(explained_copy, data=tiny)
    resight.export(explained_copy, to="pt2")
    resight.export(explained_copy, to="hub")
    known = {path for pattern in RUN_FILES for path in explained_copy.glob(pattern)}
    assert names(explained_copy) - {".lock"} == {
        path.relative_to(explained_copy).as_posix() for path in known
    }


def test_a_proven_run_takes_the_place_and_foreign_files_stay(
    explained_copy: Path, tiny: resight.Dataset
) -> None:
    for name in ("thesis.txt", "gallery/mine.png"):
        (explained_copy / name).write_text("years")
    waits: list[bool] = []

    def on_event(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 1:
            waits.append((explained_copy / ".replaced" / "predictions.npz").exists())

    out, name = explained_copy.parent, explained_copy.name
    recipe = tiny_recipe("seed=9")
    run = resight.train(recipe, data=tiny, out=out, name=name, force=True, on_event=on_event)
    assert waits == [True]
    assert run.recipe.seed == 9
    assert [path.name for path in (run.folder / "gallery").iterdir()] == ["mine.png"]
    assert (run.folder / "thesis.txt").read_text() == "years"
    assert not (run.folder / "mistakes.csv").exists()
    assert not (run.folder / ".replaced").exists()


class Breaks(nn.Module):
    """A network whose loss becomes NaN at a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
        self.calls, self.step = 0, step

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        logits: torch.Tensor = self.inner(images)
        return logits * (float("nan") if self.calls == self.step else 1.0)


def test_a_run_that_diverges_in_its_first_epoch_gives_the_place_back(
    trained_copy: Path, tiny: resight.Dataset
) -> None:
    before = {name: (trained_copy / name).read_bytes() for name in names(trained_copy)}
    settings = {"data": tiny, "out": trained_copy.parent, "name": trained_copy.name, "force": True}
    recipe = tiny_recipe("optimizer.lr=0.001")
    with pytest.raises(Diverged, match=r"the run that was in .* before is there again"):
        resight.train(recipe, model=Breaks(2), **settings)
    after = {name: (trained_copy / name).read_bytes() for name in names(trained_copy) - {".lock"}}
    assert after == {name: content for name, content in before.items() if name != ".lock"}
    with pytest.raises(Diverged, match="the checkpoint before it is kept"):
        resight.train(recipe, model=Breaks(5), **settings)
    assert resight.Run.open(trained_copy).recipe.model.name == "custom"


def test_stopped_in_its_first_epoch_it_is_resumed_and_the_old_run_waits(
    trained_copy: Path, tiny: resight.Dataset
) -> None:
    settings = {"data": tiny, "out": trained_copy.parent, "name": trained_copy.name}

    def stop(event: object) -> None:
        if isinstance(event, StepDone):
            os.kill(os.getpid(), signal.SIGINT)

    run = resight.train(tiny_recipe("seed=3"), **settings, force=True, on_event=stop)
    assert run.interrupted
    assert (trained_copy / ".replaced" / "summary.json").exists()
    resumed = resight.resume(trained_copy, data=tiny)
    assert resumed.recipe.seed == 3
    assert not (trained_copy / ".replaced").exists()


def test_a_run_that_is_training_is_not_replaced(trained_copy: Path, tiny: resight.Dataset) -> None:
    settings = {"data": tiny, "out": trained_copy.parent, "name": trained_copy.name, "force": True}

    def meddle(event: object) -> None:
        if isinstance(event, EpochDone):
            with pytest.raises(UsageError, match="another process is training in"):
                resight.train(tiny_recipe("seed=1"), **settings)

    assert resight.train(tiny_recipe("seed=2"), **settings, on_event=meddle).recipe.seed == 2


@pytest.mark.parametrize("files", [{"recipe.toml": 'name = "mine"'}, {"notes.txt": "mine"}])
def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, tiny: resight.Dataset, files: dict[str, str]
) -> None:
    (tmp_path / "mine").mkdir()
    for name, text in files.items():
        (tmp_path / "mine" / name).write_text(text)
    with pytest.raises(UsageError, match="is not a run folder, so --force will not replace it"):
        resight.train(tiny_recipe(), data=tiny, out=tmp_path, name="mine", force=True)
    assert {path.name: path.read_text() for path in (tmp_path / "mine").iterdir()} == files


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../x", "is a path, not the name"),
        ("a/b", "is a path, not the name"),
        ("a\\b", "is a path, not the name"),
        ("..", "begins with a dot"),
        (".hidden", "begins with a dot"),
        ("x" * 300, "has 300 bytes, but the name of a folder has at most 200"),
        ("a\x1b[31m", "has control characters"),
    ],
)
def test_names_that_leave_or_hide_are_refused(
    tmp_path: Path, tiny: resight.Dataset, name: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as error:
        resight.train(tiny_recipe(), data=tiny, out=tmp_path / "out", name=name)
    assert "choose another --name" in str(error.value)
    recipe = tiny_recipe().model_copy(update={"name": f"../{name}"})
    with pytest.raises(UsageError, match="the recipe's name in"):
        resight.train(recipe, data=tiny, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_start_left_is_cleared(tmp_path: Path, tiny: resight.Dataset) -> None:
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    name = temporary_path(tmp_path / "old").name
    dead = tmp_path / name.replace(f"-{os.getpid()}.", f"-{int(process.stdout)}.")
    dead.mkdir()
    (dead / "recipe.toml").write_text("")
    run = resight.train(tiny_recipe(), data=tiny, out=tmp_path, name="a")
    assert list(tmp_path.iterdir()) == [run.folder]
