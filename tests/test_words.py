"""One thing, one name; the field's words, spelled as torch spells them."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import resight

ROOT = Path(resight.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
TEXTS = sorted(
    path for path in ROOT.rglob("*") if path.suffix in (".py", ".pyi", ".html", ".js", ".css")
)

# Names that several modules may define, and why. Beside them, a command of the command line has the
# name of its function in Python, and a check of the doctor has the name of what it looks at.
SHARED_NAMES = {
    "find": "every reader of a layout recognizes it by a function of this name",
    "read": "every reader of a layout reads it by a function of this name",
    "ResNet": "the recipe's section of a network has the network's name",
    "ResNet9": "the recipe's section of a network has the network's name",
    "Swift": "the recipe's section of a network has the network's name",
}

PARTICIPLES = frozenset(
    re.findall(
        r"\w+",
        """
    Asked Begun Bent Bound Broken Built Chosen Done Drawn Found Given Gone Grown Heard
    Held Kept Known Laid Learnt Left Lost Made Meant Met Said Seen Sent Shown Sought Spent
    Taken Taught Thought Told Understood Written
        """,
    )
)
EVENTS = {"Diverged": "an error says what happened", "Skipped": "a check raises it"}

OLD_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    alike answer answers asked beginning begun checkup climb climbing climbs doubt doubts
    evidence fault faults finding findings fresh knob knobs ladder learnt looked mend
    mended patient rung rungs replica replicas said settle settled settles suspicious told
    watch
        """,
    )
)
OLD_PHRASES = ("give_back", "given_back", "left_out", "ones_own")
OLD_VARIABLES = {"asked", "found", "of", "said"}
OLD_CONSTANTS = ("ENOUGH", "FEWEST", "MOST")  # NUM_, MIN_, MAX_

BRITISH = re.compile(
    r"\w*(?:artefact|behaviour|cancelled|catalogue|centre|colour|defence|favour|fulfil\b|grey"
    r"|honour|judgement|(?<!aria-)labelled|learnt|licence|modelled|neighbour|programme\b|spelt|travelled"
    r"|whilst"
    r"|(?:anal|catal)ys(?:e|ed|es|ing)\b"
    r"|(?:general|initial|maxim|minim|normal|optim|organ|parallel|penal|quant|random|recogn"
    r"|regular|serial|special|standard|summar|synchron|token|util|vector|visual)"
    r"is(?:e|ed|es|er|ers|ing|ation|ations)\b)\w*",
    re.IGNORECASE,
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def assigned(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement assigns to."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    for target in targets:
        for part in ast.walk(target):
            if isinstance(part, ast.Name):
                yield part.id


def top_names(path: Path) -> Iterator[str]:
    """Yield the functions, classes and constants of a module."""
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        else:
            yield from assigned(node)


def words(name: str) -> list[str]:
    """Split `snake_case` and `CamelCase` into lower-case words."""
    return re.findall(r"[a-z]+", re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower())


def test_names_are_split_into_words() -> None:
    assert words("LRRangeOptions_x2") == ["lrrange", "options", "x"]
    assert words("_given_back") == ["given", "back"]
    assert BRITISH.findall("colours, neighbouring, normalisation, analysed") != []
    assert not BRITISH.search("colors noise otherwise precise analysis promise parallelism")


def test_no_two_functions_or_classes_have_one_name() -> None:
    places = defaultdict(list)
    for path in MODULES:
        is_check = path.parent.name == "diagnosis" and path.stem.endswith("_checks")
        if "cli" in path.relative_to(ROOT).parts or is_check:
            continue
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(place(path))
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in shared.items() if name not in SHARED_NAMES} == {}


def test_only_a_command_shares_its_name_with_a_function() -> None:
    commands = defaultdict(list)
    for path in (ROOT / "cli").glob("*.py"):
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                commands[node.name].append(place(path))
    assert {name: where for name, where in commands.items() if len(where) > 1} == {}


def test_no_class_is_called_by_a_participle() -> None:
    names = [
        f"{place(path)}: {node.name}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and node.name not in EVENTS
        and (node.name.lstrip("_") in PARTICIPLES or re.fullmatch(r"_?[A-Z][a-z]+ed", node.name))
    ]
    assert names == []


@pytest.mark.parametrize("kind", ["module", "class"])
def test_no_name_has_an_old_word(kind: str) -> None:
    """Modules: functions, classes, constants. Classes: methods, attributes."""
    old = []
    for path in MODULES:
        names = list(top_names(path))
        if kind == "class":
            bodies = [n.body for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef)]
            members = [node for body in bodies for node in body]
            names = [node.name for node in members if isinstance(node, ast.FunctionDef)]
            names += [name for node in members for name in assigned(node)]
        for name in names:
            joined = "_".join(words(name))
            if OLD_WORDS & set(words(name)) or any(phrase in joined for phrase in OLD_PHRASES):
                old.append(f"{place(path)}: {name}")
    assert old == []


def test_no_module_is_called_by_an_old_word() -> None:
    assert [place(path) for path in MODULES if OLD_WORDS & set(words(path.stem))] == []


def test_constants_are_called_max_min_and_num() -> None:
    wrong = [
        f"{place(path)}: {name}"
        for path in MODULES
        for name in top_names(path)
        if name.lstrip("_").startswith(OLD_CONSTANTS) and name.isupper()
    ]
    assert wrong == []


def test_a_variable_has_the_noun_that_it_holds() -> None:
    wrong = [
        f"{place(path)}:{node.lineno}: {name}"
        for path in MODULES
        for node in ast.walk(tree(path))
        for name in [
            node.id
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            else node.arg
            if isinstance(node, ast.arg)
            else ""
        ]
        if name in OLD_VARIABLES
    ]
    assert wrong == []


def test_spelling_is_american() -> None:
    wrong = [
        f"{place(path)}:{number}: {match.group()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in BRITISH.finditer(line)
    ]
    assert wrong == []
