"""The architecture: imports point one way, names are few, files and functions small."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import resight

ROOT = Path(resight.__file__).parent

# A line may import only from lines above it (and a package from itself).
ORDER = (
    *("errors", "files", "records", "events", "text"),
    *("recipe", "metrics", "networks", "datasets", "optim", "cam", "training", "lr_finder"),
    *("figures", "runs", "diagnosis", "html_report", "interpret", "deploy", "trackers"),
    *("experiment", "notebook", "cli", "__main__"),
)
MAX_NAMES = 23  # files and packages directly under resight
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
LONG_FUNCTIONS: dict[str, str] = {}  # may only shrink: name -> why it is one piece

MODULES = sorted(ROOT.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = ("resight", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in MODULES}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of resight that a file imports, wherever in the file."""
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("resight"):
                yield name if name in NAMES else name.rpartition(".")[0]


def room(name: str) -> str:
    """Return the file or package directly under resight that a module belongs to."""
    return name.split(".")[1] if "." in name else "__init__"


def test_the_house_has_few_rooms_and_each_has_its_place() -> None:
    rooms = {path.name for path in ROOT.glob("*.py")} | {p.parent.name for p in ROOT.glob("*/*.py")}
    assert {name.removesuffix(".py") for name in rooms} == {*ORDER, "__init__"}
    assert len(rooms - {"__init__.py", "__main__.py"}) <= MAX_NAMES


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module_name(path)} imports {name}"
        for path in MODULES
        if path != ROOT / "__init__.py"
        for name in imports(path)
        if room(name) != "__init__"
        and ORDER.index(room(name)) > ORDER.index(room(module_name(path)))
    ]
    assert wrong == []


def test_nothing_imports_in_a_circle() -> None:
    graph = {
        name: {
            other for other in imports(path) if other in NAMES and other not in (name, "resight")
        }
        for name, path in NAMES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_files_stay_small() -> None:
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {str(path): n for path, n in lines.items() if n > MAX_FILE_LINES} == {}


def test_functions_stay_small() -> None:
    long = {
        f"{module_name(path)}.{node.name}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == set(LONG_FUNCTIONS)


def test_no_print_outside_the_command_line() -> None:
    """Except in a notebook whose page cannot write a line anew, after `%load_ext resight`."""
    calls = [
        module_name(path)
        for path in MODULES
        if room(module_name(path)) != "cli" and module_name(path) != "resight.notebook.live"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert calls == []


def run_fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


HEAVY = "[m for m in ('torch', 'matplotlib', 'pyarrow', 'PIL') if m in sys.modules]"


def test_help_imports_neither_numpy_nor_pydantic() -> None:
    result = run_fresh(
        "import sys\nfrom resight.cli.app import main\nmain(['--help'])\n"
        "print('heavy:', [m for m in ('numpy', 'pydantic') if m in sys.modules])"
    )
    assert result.stdout.endswith("heavy: []\n"), result.stderr


def test_the_list_of_recipes_does_without_numpy() -> None:
    result = run_fresh(
        "import sys\nfrom resight.cli.app import main\n"
        "main(['recipes'])\nprint('numpy' in sys.modules)"
    )
    assert result.stdout.endswith("False\n"), result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["recipes"], 0),
        (["recipes", "show", "swift"], 0),
        (["models"], 0),
        (["data"], 0),
        (["schedule", "base"], 0),
        (["nonsense"], 2),
        (["train", "digits", "--nonsense"], 2),
        (["train", "nonsense"], 2),
        (["train", "digits", "--set", "optimizer.lr=-1"], 2),
        (["train", "digits", "--data", "nonsense"], 2),
    ],
)
def test_light_commands_and_usage_errors_do_not_import_torch(
    arguments: list[str], code: int
) -> None:
    result = run_fresh(
        f"import sys\nfrom resight.cli.app import main\ncode = main({arguments!r})\n"
        f"print('heavy:', {HEAVY})\nsys.exit(code)"
    )
    assert result.returncode == code, result.stderr
    assert result.stdout.endswith("heavy: []\n")


def test_import_resight_is_light() -> None:
    result = run_fresh(f"import sys, resight\nprint({HEAVY})")
    assert result.stdout == "[]\n"


def test_values_do_without_torch() -> None:
    light = "errors files records events text recipe.presets metrics.mistakes optim.schedules"
    modules = ", ".join(f"resight.{name}" for name in light.split())
    result = run_fresh(f"import sys\nimport {modules}\nprint({HEAVY})")
    assert result.stdout == "[]\n", result.stderr


def test_predict_waits_for_no_figures() -> None:
    result = run_fresh(
        "import sys\nimport resight.runs.predict, resight.runs.inference, resight.cli.progress\n"
        "print([m for m in ('matplotlib', 'pyarrow', 'torch._dynamo', 'onnx') if m in sys.modules])"
    )
    assert result.stdout == "[]\n", result.stderr


def test_every_public_name_exists_and_is_documented() -> None:
    assert set(dir(resight)) == set(resight.__all__)
    for name in resight.__all__:
        thing = getattr(resight, name)
        assert name == "__version__" or thing.__doc__, name
