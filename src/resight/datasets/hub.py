"""Data sets of the Hugging Face hub: the Parquet files of one commit, through `huggingface_hub`.

The library keeps the files in its own cache, where other programs find them too. What a revision
meant and which files it has is recorded in resight's cache, so that offline use needs no network.
"""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ResightError, UsageError
from ..files import json_text, read_text, write_text
from ..recipe.sources import HubName
from .cache_entries import cache_folder
from .dataset import OnProgress
from .download import is_offline
from .splits import split_of
from .tree import SourceTree

_CONVERTED = "refs/convert/parquet"  # the branch with the hub's own conversion of small data sets
_MAX_RECORD = 2**24  # bytes


@dataclass(frozen=True)
class HubFiles:
    """The Parquet files of one subset at one commit.

    source: pinned to the commit. sizes: of each file in bytes, by its path in the repository.
    """

    source: HubName
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()


def find_files(source: HubName, *, offline: bool) -> HubFiles:
    """Return the Parquet files of a data set; the hub is asked only where the commit is new.

    Raises:
        UsageError: the library is missing, there is no such data set, revision or subset, it is
            gated or has no Parquet, or it is new and downloads are off.
        ResightError: the hub cannot be reached.
    """
    recorded = _read_record(source)
    if recorded and (source.is_pinned or is_offline(offline)):
        return recorded
    if is_offline(offline):
        raise UsageError(
            f"{source} was not read before with this cache and downloads are off; read it once "
            "without --offline, or pass --data PATH"
        )
    files = _look_up(source)
    with suppress(OSError, ResightError):  # only offline use needs it
        for name in (source, files.source):
            _record(name).parent.mkdir(parents=True, exist_ok=True)
            content = {"source": str(name), "files": dict(files.sizes), "notes": files.notes}
            pinned = {"revision": files.source.revision, "config": files.source.config}
            write_text(_record(name), json_text(content | pinned))
    return files


def pin(source: HubName, *, offline: bool) -> HubName:
    """Return the data set with the commit that its revision means now, as a recipe records it."""
    return find_files(source, offline=offline).source


def open_files(files: HubFiles, *, offline: bool, on_progress: OnProgress) -> SourceTree:
    """Download the files that are not there, and return the tree of all.

    Raises:
        UsageError: a file is missing and downloads are off.
        ResightError: a download failed.
    """
    root = _download(files, offline=offline, on_progress=on_progress)
    return SourceTree(root, root, tuple(sorted(files.sizes)))


# --- which files ----------------------------------------------------------------------------


def _look_up(source: HubName) -> HubFiles:
    """Ask the hub for the files at the revision, else for its own conversion of the data set."""
    info = _info(source, source.revision or "main")
    notes: tuple[str, ...] = ()
    sizes = _parquet_sizes(info)
    if not sizes and source.revision is None:
        with suppress(UsageError):  # there is no conversion
            info = _info(source, _CONVERTED)
            sizes = _parquet_sizes(info)
            notes = ("the files are the hub's own conversion to Parquet",)
    if not sizes:
        hint = "leave out the revision" if source.revision else "download it and give its path"
        raise UsageError(f"{source} has no Parquet files, the only ones that are read; {hint}")
    config, files, is_default = _choose_config(source, info, tuple(sizes))
    if is_default:
        notes = (*notes, f"the data set has several subsets; {config} is its owner's default")
    taken = [file for file in files if _split_of(file)] or files
    if left_out := [file for file in files if file not in taken]:  # as SVHN's `extra`
        notes = (*notes, f"left out: {left_out[0]} and the like, which are of no known split")
    pinned = HubName(source.repo, info.sha, config)
    return HubFiles(pinned, {file: sizes[file] for file in taken}, notes)


def _parquet_sizes(info: Any) -> dict[str, int]:
    return {
        file.rfilename: file.size or 0
        for file in info.siblings or ()
        if file.rfilename.endswith(".parquet")
    }


def _choose_config(
    source: HubName, info: Any, files: Sequence[str]
) -> tuple[str | None, list[str], bool]:
    """Return the subset to read, its files, and whether it was chosen as its owner's default."""
    configs, default = _configs_of_card(info, files)
    configs = configs or _configs_of_folders(files)
    if source.config is None and len(configs) == 1:
        return None, next(iter(configs.values())), False
    config = source.config or default
    if config in configs:
        return config, configs[config], source.config is None
    names = ", ".join(sorted(configs)[:20]) + (", ..." if len(configs) > 20 else "")
    if source.config is None:
        example = replace(source, config=min(configs))
        raise UsageError(f"{source} has several subsets; choose one, as in {example}: {names}")
    raise UsageError(f"{source} has no subset {source.config!r}; it has {names}")


def _configs_of_card(info: Any, files: Sequence[str]) -> tuple[dict[str, list[str]], str | None]:
    """Return the files of each subset as the data set's card lists them, and the default one."""
    card = info.card_data.to_dict() if info.card_data else {}
    configs: dict[str, list[str]] = {}
    default = None
    for entry in card.get("configs") or ():
        if not isinstance(entry, dict) or not isinstance(name := entry.get("config_name"), str):
            continue
        patterns = list(_patterns(entry.get("data_files")))
        matches = [file for file in files if any(fnmatch(file, pattern) for pattern in patterns)]
        if matches:
            configs[name] = matches
            if entry.get("default") is True or (name == "default" and default is None):
                default = name
    return configs, default


def _patterns(data_files: Any) -> Iterator[str]:
    """Yield the patterns of a card: a text, a list, `{split: ..., path: ...}` or lists of them."""
    if isinstance(data_files, str):
        yield data_files
    elif isinstance(data_files, list):
        for entry in data_files:
            yield from _patterns(entry.get("path") if isinstance(entry, dict) else entry)


def _configs_of_folders(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each folder; a folder of one split belongs to the folder above."""
    configs: dict[str, list[str]] = defaultdict(list)
    for file in files:
        folder = PurePosixPath(file).parent
        if split_of(folder.name.removeprefix("partial-")):
            folder = folder.parent
        configs["default" if str(folder) == "." else str(folder)].append(file)
    return dict(configs)


def _split_of(file: str) -> str | None:
    """Return the split that `data/train-00000-of-00002.parquet` or `train/0000.parquet` is of."""
    path = PurePosixPath(file)
    words = (re.sub(r"-\d+-of-\d+(-\w+)?$", "", path.stem), path.parent.name)
    return next((split for word in words if (split := split_of(word))), None)


# --- the library ----------------------------------------------------------------------------


def _info(source: HubName, revision: str) -> Any:
    """Return what the hub says of a data set at a revision: its commit, its files and its card."""
    with problems_named(source, offline=False):
        from huggingface_hub import HfApi

        return HfApi(hub_address(), library_name="resight").dataset_info(
            source.repo, revision=revision, files_metadata=True, timeout=30
        )


def _download(files: HubFiles, *, offline: bool, on_progress: OnProgress) -> Path:
    """Return the folder that holds all files, each below it by its path in the repository."""
    offline = is_offline(offline)
    with problems_named(files.source, offline=offline):
        from huggingface_hub import hf_hub_download

        total = sum(files.sizes.values())
        bar = _progress_bar(f"download {files.source.name}", total, on_progress)
        for name in files.sizes:
            path = hf_hub_download(
                files.source.repo,
                name,
                repo_type="dataset",
                revision=files.source.revision,
                local_files_only=offline,
                endpoint=hub_address(),
                library_name="resight",
                tqdm_class=bar,
            )
        return Path(path).parents[name.count("/")]


def hub_address() -> str | None:
    """Return the address of another hub, where one is set; the library's own is None."""
    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or None


def _progress_bar(task: str, total: int, on_progress: OnProgress) -> Any:
    """Return a class like tqdm's that passes the bytes of all files on, and draws nothing."""
    from tqdm.auto import tqdm  # of which the library wants a subclass

    done = 0

    class _Silent(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            known = ("total", "initial", "unit", "unit_scale", "desc")
            super().__init__(**{k: kwargs[k] for k in known if k in kwargs}, disable=True)

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal done
            done += int(n or 0)
            on_progress(task, min(done, total), total)
            return None

    return _Silent


@contextmanager
def problems_named(source: HubName, *, offline: bool, kind: str = "data set") -> Iterator[None]:
    """Turn the errors of the library into one line that says what to do; `kind` is of repo."""
    repo = source.repo
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise UsageError(
            f"{source} needs the package huggingface_hub; install it by "
            f'pip install "resight[hub]", or download the {kind} and give its path'
        ) from error
    network: Any = errors.HfHubHTTPError.__mro__[1]  # the base of all errors of its HTTP library
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/{'datasets/' * (kind == 'data set')}{repo}"
        raise UsageError(
            f"{source} is gated; accept its terms on {page}, then log in by "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{source} has no such revision; leave it out for the newest") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UsageError(
            f"the hub has no {kind} {repo!r}; check its owner and name (if it is "
            "private, log in by `hf auth login` or set HF_TOKEN)"
        ) from error
    except (network, OSError) as error:
        if offline:
            raise UsageError(
                f"the files of {source} are not all here and downloads are off; use it once "
                "without --offline, or give a path"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ResightError(
            f"{source} cannot be downloaded: {reason}; try again later, or give a path"
        ) from error


# --- what is recorded -----------------------------------------------------------------------


def _record(source: HubName) -> Path:
    return cache_folder() / "hub" / hashlib.sha256(str(source).encode()).hexdigest()[:32]


def _read_record(source: HubName) -> HubFiles | None:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        record = json.loads(read_text(_record(source), _MAX_RECORD))
        sizes = {str(file): int(size) for file, size in record["files"].items()}
        pinned = HubName(source.repo, record["revision"], record["config"])
        if record["source"] == str(source) and sizes and pinned.is_pinned:
            return HubFiles(pinned, sizes, tuple(map(str, record["notes"])))
    return None
