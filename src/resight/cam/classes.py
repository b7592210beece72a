"""The classes of heat maps: from a word, index or labels to a class index for each map."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError

Class: TypeAlias = str | int | Tensor | np.ndarray[Any, Any]
Classes: TypeAlias = Class | Sequence[Class]  # M of them; "all" counts for all K

_VALID = '"predicted", "all", a class index, a label for each image (N,), or a sequence of these'


def check_classes(classes: Any, n: int, *, name: str = "classes") -> None:
    """Raise UsageError unless `classes` is of a valid form for `n` images."""
    if isinstance(classes, str):
        if classes not in ("predicted", "all"):
            raise UsageError(f'{name} = "{classes}"; choose {_VALID}')
    elif isinstance(classes, Tensor | np.ndarray):
        labels = torch.as_tensor(classes)
        whole = (
            not (labels.is_floating_point() or labels.is_complex()) and labels.dtype != torch.bool
        )
        if labels.shape != (n,) or not whole:
            raise UsageError(
                f"{name}: {labels.dtype} {tuple(labels.shape)} for {n} images; "
                f"labels are whole numbers ({n},)"
            )
    elif isinstance(classes, bool) or not isinstance(classes, int | np.integer | Sequence):
        raise UsageError(f"{name} = {classes!r}; choose {_VALID}")
    elif isinstance(classes, Sequence):
        if not classes:
            raise UsageError(f"{name} is empty; choose {_VALID}")
        for one in classes:
            if isinstance(one, list | tuple):
                raise UsageError(f"{name} holds {one!r}; give labels for each image as a tensor")
            check_classes(one, n, name=name)


def class_indices(classes: Classes, logits: Tensor, rows: slice) -> Tensor:
    """Return (N, M) int64 for the images of `logits` (N, K), which are `rows` of all images."""
    if isinstance(classes, str | int | np.integer | Tensor | np.ndarray):
        return _columns(classes, logits, rows)
    return torch.cat([_columns(one, logits, rows) for one in classes], dim=1)


def _columns(one: Class, logits: Tensor, rows: slice) -> Tensor:
    n, k = logits.shape
    if isinstance(one, str):
        if one == "predicted":
            return logits.argmax(dim=1, keepdim=True)
        return torch.arange(k, device=logits.device).expand(n, k)
    if isinstance(one, Tensor | np.ndarray):
        return in_range(torch.as_tensor(one)[rows].to(logits.device), k)[:, None]
    return in_range(torch.full((n, 1), int(one), device=logits.device), k)


def in_range(labels: Tensor, k: int) -> Tensor:
    """Return the labels as int64; raise UsageError if one is not a class of `k`."""
    wrong = labels[(labels < 0) | (labels >= k)]
    if len(wrong):
        raise UsageError(
            f"class {int(wrong.flatten()[0])} does not exist: the model has {k} classes, "
            f"0 to {k - 1}"
        )
    return labels.long()


def rival_classes(logits: Tensor, classes: Tensor, against: Tensor | None) -> tuple[Tensor, int]:
    """Return (N, M), the class to tell each of `classes` (N, M) from, and a count.

    It is the class of `against` (N,), or the class with the nearest logit where `against` is None
    or the class itself; the second result counts how often it was the class itself.

    Finer-CAM is Grad-CAM of y_c - y_d: the evidence for c and not for d. The paper multiplies y_d
    by 0.6 and takes the mean of three such d; here it is the plain difference of two logits.

    Zhang et al. 2025, "Finer-CAM", arXiv 2501.11309.
    """
    k = logits.shape[1]
    if k < 2:
        raise UsageError("finer-cam tells two classes apart, but the model has only one")
    own = F.one_hot(classes, k).bool()  # (N, M, K)
    distance = (logits[:, None] - logits.gather(1, classes)[..., None]).abs()
    nearest = distance.masked_fill(own, torch.inf).argmin(dim=2)
    if against is None:
        return nearest, 0
    rivals = in_range(torch.as_tensor(against).to(logits.device), k)[:, None].expand_as(classes)
    return torch.where(rivals == classes, nearest, rivals), int((rivals == classes).sum())
