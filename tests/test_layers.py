"""The architecture: data flows one way through the layers, and light things stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import resight

ROOT = Path(resight.__file__).parent

# A module imports only from its own layer or an earlier one.
LAYERS = [
    {
        "choices",
        "errors",
        "files",
        "interrupt",
        "recipe",
        "recipe_text",
        "presets",
        "records",
        "metrics",
    }
    | {"findings", "mistakes", "published", "sources", "lr_rules", "lr_verdict", "area_means"},
    {"datasets", "augment", "batches", "networks", "schedules", "optimizers", "muon"}
    | {"lr_scheduler", "ranks"},
    {"evaluation", "evidence", "neighbours", "train_state", "training", "lr_range", "give_back"}
    | {"cam", "settle", "diagnosis"},
    {"preparation", "environment", "run_folder", "figures", "artefacts", "run_explanation"}
    | {"gallery", "html_report", "replicas", "devices"},
    {"experiment", "explanation", "trained", "look", "listings", "progress", "costs"}
    | {"schedule_view", "sketch", "rate_finder", "rate_view", "notebook", "reproduction"}
    | {"comparison", "flipped", "checkup"},
    {"cli_explain", "cli_lr", "cli_report", "cli_options", "cli_runs", "cli_lists"}
    | {"cli", "cli_doctor", "cli_reproduce", "__main__", "__init__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

MODULES = sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    """The module or package directly under resight that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of resight that a file imports, wherever in the file."""
    package = ["resight", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("resight.")}
    return found & set(RANK)


def test_every_module_has_a_layer() -> None:
    assert {part(path) for path in MODULES} == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    here = part(path)
    wrong = {other for other in imported(path) if RANK[other] > RANK[here]}
    if here != "__init__":  # the package's own face names everything, lazily
        assert not wrong, f"{here} imports {wrong} from a later layer"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 330


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_print_outside_the_command_line(path: Path) -> None:
    if not part(path).startswith("cli"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


def run_fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


HEAVY = "[m for m in ('torch', 'matplotlib', 'pyarrow', 'PIL') if m in sys.modules]"


def test_help_imports_neither_numpy_nor_pydantic() -> None:
    result = run_fresh(
        "import sys\nfrom resight.cli import main\nmain(['--help'])\n"
        "print('heavy:', [m for m in ('numpy', 'pydantic') if m in sys.modules])"
    )
    assert result.stdout.endswith("heavy: []\n"), result.stderr


def test_the_list_of_recipes_does_without_numpy() -> None:
    result = run_fresh(
        "import sys\nfrom resight.cli import main\nmain(['recipes'])\nprint('numpy' in sys.modules)"
    )
    assert result.stdout.endswith("False\n"), result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["recipes"], 0),
        (["recipes", "swift"], 0),
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
        f"import sys\nfrom resight.cli import main\ncode = main({arguments!r})\n"
        f"print('heavy:', {HEAVY})\nsys.exit(code)"
    )
    assert result.returncode == code, result.stderr
    assert result.stdout.endswith("heavy: []\n")


def test_import_resight_is_light() -> None:
    result = run_fresh(f"import sys, resight\nprint({HEAVY})")
    assert result.stdout == "[]\n"


def test_layers_without_torch() -> None:
    modules = ", ".join(f"resight.{name}" for name in LAYERS[0])
    result = run_fresh(f"import sys\nimport {modules}\nprint({HEAVY})")
    assert result.stdout == "[]\n", result.stderr


def test_every_public_name_exists_and_is_documented() -> None:
    for name in resight.__all__:
        thing = getattr(resight, name)
        assert name == "__version__" or thing.__doc__, name
