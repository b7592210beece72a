"""The public names of resight, each listed once: `__init__.py` reads them from here."""

from .cam import Heatmaps as Heatmaps
from .cam import faithfulness as faithfulness
from .cam import heatmaps as heatmaps
from .datasets import Dataset as Dataset
from .datasets import Split as Split
from .datasets import Statistics as Statistics
from .datasets import data as data
from .diagnosis.diagnose import diagnose as diagnose
from .diagnosis.doctor import doctor as doctor
from .diagnosis.issues import Diagnosis as Diagnosis
from .diagnosis.issues import Issue as Issue
from .errors import Diverged as Diverged
from .errors import ResightError as ResightError
from .errors import UsageError as UsageError
from .experiment import demo as demo
from .experiment import dry_run as dry_run
from .experiment import reproduce as reproduce
from .experiment import resume as resume
from .experiment import train as train
from .html_report import report as report
from .interpret.explain import explain as explain
from .interpret.explain_run import Explanation as Explanation
from .lr_finder.find import LRRangeOptions as LRRangeOptions
from .lr_finder.find import lr_find as lr_find
from .lr_finder.range_test import lr_range_test as lr_range_test
from .lr_finder.suggest import LRCurve as LRCurve
from .metrics.classification import TestResult as TestResult
from .networks import layer_table as layer_table
from .networks import models as models
from .notebook import load_ipython_extension as load_ipython_extension
from .notebook import show as show
from .notebook import unload_ipython_extension as unload_ipython_extension
from .optim.curve import schedule as schedule
from .optim.torch_scheduler import ScheduleLR as ScheduleLR
from .recipe import Recipe as Recipe
from .recipe.presets import load_recipe as load_recipe
from .recipe.presets import recipes as recipes
from .recipe.toml import from_toml as from_toml
from .recipe.toml import to_toml as to_toml
from .recipe.toml import with_epochs as with_epochs
from .recipe.toml import with_overrides as with_overrides
from .records import History as History
from .records import Predictions as Predictions
from .runs.compare import compare as compare
from .runs.comparison import Comparison as Comparison
from .runs.inference import EvaluationResult as EvaluationResult
from .runs.inference import ImagePrediction as ImagePrediction
from .runs.inference import evaluate as evaluate
from .runs.inference import predict as predict
from .runs.run import Run as Run
from .runs.summary import Summary as Summary

__version__: str
__all__: list[str]
