"""Weights of a model on the Hugging Face hub, through `huggingface_hub`."""

from dataclasses import replace
from pathlib import Path

from ..datasets.download import is_offline
from ..datasets.hub import hub_address, problems_named
from ..errors import UsageError
from ..recipe.sources import HubName

_FILES = ("model.safetensors", "pytorch_model.bin")


def fetch_weights(source: HubName, *, offline: bool) -> tuple[HubName, Path]:
    """Return a model's name at the commit that its revision means now, and its file of weights.

    Raises:
        UsageError: the library is missing, there is no such model or revision, it is gated or has
            no such file, or it is not here and downloads are off.
        ResightError: the hub cannot be reached.
    """
    with problems_named(source, offline=offline, kind="model"):
        from huggingface_hub import HfApi, hf_hub_download

        name, revision, is_local = _FILES[0], source.revision or "main", is_offline(offline)
        if not is_local:
            info = HfApi(hub_address(), library_name="resight").model_info(
                source.repo, revision=revision, timeout=30
            )
            names = {file.rfilename for file in info.siblings or ()}
            present = [name for name in _FILES if name in names]
            if not present:
                raise UsageError(
                    f"model.weights = {str(source)!r}: the model has neither {_FILES[0]} nor "
                    f"{_FILES[1]}; download the file that it has and give its path"
                )
            name = present[0]
        path = Path(
            hf_hub_download(
                source.repo,
                name,
                revision=revision,
                local_files_only=is_local,
                endpoint=hub_address(),
                library_name="resight",
            )
        )
    return replace(source, revision=path.parent.name), path  # snapshots/<commit>/<file>
