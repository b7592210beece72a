"""resight: train small image classifiers fast, and see why they err.

    import resight

    run = resight.train("digits")
    run.test.accuracy.value

Every command of the command line is a function of the same name. `__init__.pyi` lists the public
names; each is imported when it is first used, so `import resight` costs next to nothing.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


@cache
def _public() -> dict[str, tuple[str, str]]:
    """Return each public name with the module and the name that it is defined under."""
    import ast

    stub = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return ["__version__", *_public()]
    if name.startswith("_") or name not in _public():
        raise AttributeError(f"module 'resight' has no attribute {name!r}")
    module, original = _public()[name]
    return getattr(import_module(f".{module}", __name__), original)


def __dir__() -> list[str]:
    return ["__version__", *_public()]
