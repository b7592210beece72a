"""A folder in the layout of the Hugging Face hub: weights, settings and a model card."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from safetensors.torch import save as format_safetensors

from ..errors import ResightError, UsageError
from ..files import atomic_write, write_text
from ..metrics.classification import TestResult
from ..recipe import Recipe
from ..runs.checkpoint import load_best
from ..runs.results import model_card
from ..runs.run import Run
from ..text import one_line
from .metadata import describe_model, public_recipe, public_source

FILES = ("model.safetensors", "config.json", "README.md")

_FILES_IN_WORDS = """\
`model.safetensors` has the weights, `config.json` the classes, the size and the statistics of the \
images, and every setting of the training."""


def import_hub() -> ModuleType:
    """Return the package of the hub; raise UsageError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError(
            "exporting for the hub needs the package huggingface_hub; pip install 'resight[hub]'"
        ) from error
    return huggingface_hub


def write_hub_folder(run: Run, folder: Path, *, license: str) -> None:
    """Write the weights of a run, its settings and its model card into a folder; no code is run.

    Raises:
        ResightError: the run is not finished, or the folder cannot be written to.
    """
    summary = run.summary
    if summary is None:
        raise ResightError(f"{run.folder} is not finished; go on with resight resume {run.folder}")
    recipe = public_recipe(run.recipe)
    public = replace(summary, data=replace(summary.data, source=public_source(recipe)))
    head = _card_head(recipe, summary.test, name=run.folder.resolve().name, license=license)
    weights, info = load_best(run.folder)
    config = json.dumps(describe_model(info), indent=2, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make {folder}: {error.strerror}") from error
    with atomic_write(folder / "model.safetensors") as temporary:
        temporary.write_bytes(format_safetensors(weights, metadata={"format": "pt"}))
    write_text(folder / "config.json", f"{config}\n")
    card = model_card(recipe, public, head=head, files=_FILES_IN_WORDS)
    write_text(folder / "README.md", card)


def _card_head(recipe: Recipe, test: TestResult | None, *, name: str, license: str) -> str:
    """The head of a model card in YAML, which the hub reads."""
    hub, source = import_hub(), recipe.data.source
    results = None
    if test is not None:
        figures = {"accuracy": test.accuracy.value, "loss": test.loss}
        results = [
            hub.EvalResult(
                task_type="image-classification",
                dataset_type=source.removeprefix("hf:").partition("@")[0],
                dataset_name=public_source(recipe),
                dataset_split="test",
                metric_type=metric,
                metric_value=round(value, 4),
            )
            for metric, value in figures.items()
        ]
    on_hub = source.startswith("hf:")
    data = hub.ModelCardData(
        model_name=name,
        license=license,
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=["resight", "image-classification"],
        datasets=[source.removeprefix("hf:").partition("@")[0]] if on_hub else None,
        metrics=["accuracy"],
        eval_results=results,
    )
    head: str = data.to_yaml()
    return head


def push_folder(folder: Path, repository: str) -> str:
    """Upload an exported folder to `owner/name` of the hub; return its address.

    A repository that does not exist is made, private.

    Raises:
        ResightError: nobody is logged in, the hub cannot be reached, or it refuses.
    """
    hub = import_hub()
    try:
        address = str(hub.HfApi().create_repo(repository, private=True, exist_ok=True))
        hub.HfApi().upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Export from resight",
        )
    except Exception as error:  # of many libraries: of the network, the token, the hub's answer
        raise ResightError(
            f"{folder} was written, but not pushed to {repository}: {one_line(str(error), 200)}; "
            "log in with `hf auth login`, and see that the hub can be reached"
        ) from error
    return address
