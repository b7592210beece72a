"""resight: train small image classifiers fast, and see why they err.

    import resight

    run = resight.train("digits")
    run.summary["test"]["accuracy"]

Every command of the command line is a function of the same name. Names are imported when they
are first used, so `import resight` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .cam import Heatmaps, faithfulness, heatmaps
    from .datasets import Dataset, Split, Statistics
    from .datasets import load as data
    from .diagnosis.diagnose import diagnose
    from .diagnosis.doctor import doctor
    from .diagnosis.issues import Diagnosis, Finding
    from .errors import Diverged, ResightError, UsageError
    from .experiment import Run, demo, resume, train
    from .html_report import build as report
    from .interpret.explain import explain
    from .lr_finder.find import Ladder, lr_find
    from .lr_finder.range_test import lr_range_test
    from .lr_finder.suggest import LRCurve
    from .networks import layer_table, models
    from .notebook import load_ipython_extension, show, unload_ipython_extension
    from .optim.curve import schedule
    from .optim.torch_scheduler import ScheduleLR
    from .recipe import Recipe
    from .recipe.presets import find_recipe, recipes
    from .recipe.toml import from_toml, to_toml, with_epochs, with_overrides
    from .records import History, Predictions
    from .reproduction import reproduce
    from .runs.compare import Comparison, compare
    from .runs.inference import evaluate, predict

_HOME = {
    "Comparison": "runs.compare",
    "Dataset": "datasets",
    "Diagnosis": "diagnosis.issues",
    "Diverged": "errors",
    "Finding": "diagnosis.issues",
    "Heatmaps": "cam",
    "History": "records",
    "LRCurve": "lr_finder.suggest",
    "Ladder": "lr_finder.find",
    "Predictions": "records",
    "Recipe": "recipe",
    "ResightError": "errors",
    "Run": "experiment",
    "ScheduleLR": "optim.torch_scheduler",
    "Split": "datasets",
    "Statistics": "datasets",
    "UsageError": "errors",
    "compare": "runs.compare",
    "data": "datasets:load",
    "demo": "experiment",
    "diagnose": "diagnosis.diagnose",
    "doctor": "diagnosis.doctor",
    "evaluate": "runs.inference",
    "explain": "interpret.explain",
    "faithfulness": "cam",
    "find_recipe": "recipe.presets",
    "from_toml": "recipe.toml",
    "heatmaps": "cam",
    "layer_table": "networks",
    "load_ipython_extension": "notebook",
    "lr_find": "lr_finder.find",
    "lr_range_test": "lr_finder.range_test",
    "models": "networks",
    "predict": "runs.inference",
    "recipes": "recipe.presets",
    "report": "html_report:build",
    "reproduce": "reproduction",
    "resume": "experiment",
    "schedule": "optim.curve",
    "show": "notebook",
    "to_toml": "recipe.toml",
    "train": "experiment",
    "unload_ipython_extension": "notebook",
    "with_epochs": "recipe.toml",
    "with_overrides": "recipe.toml",
}

__all__ = [
    "Comparison",
    "Dataset",
    "Diagnosis",
    "Diverged",
    "Finding",
    "Heatmaps",
    "History",
    "LRCurve",
    "Ladder",
    "Predictions",
    "Recipe",
    "ResightError",
    "Run",
    "ScheduleLR",
    "Split",
    "Statistics",
    "UsageError",
    "__version__",
    "compare",
    "data",
    "demo",
    "diagnose",
    "doctor",
    "evaluate",
    "explain",
    "faithfulness",
    "find_recipe",
    "from_toml",
    "heatmaps",
    "layer_table",
    "load_ipython_extension",
    "lr_find",
    "lr_range_test",
    "models",
    "predict",
    "recipes",
    "report",
    "reproduce",
    "resume",
    "schedule",
    "show",
    "to_toml",
    "train",
    "unload_ipython_extension",
    "with_epochs",
    "with_overrides",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resight' has no attribute {name!r}")
    module, _, inner = _HOME[name].partition(":")
    return getattr(import_module(f".{module}", __name__), inner or name)
