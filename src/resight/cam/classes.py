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


def parse_classes(classes: Classes, n: int) -> list[str | int | Tensor]:
    """Return `classes` for `n` images as a list of "predicted", "all", indices and labels (N,)."""
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        return [_parse_class(classes, n)]
    if not classes:
        raise UsageError(f"classes is empty; choose {_VALID}")
    return [_parse_class(one, n) for one in classes]


def _parse_class(one: Any, n: int) -> str | int | Tensor:
    if isinstance(one, str) and one in ("predicted", "all"):
        return one
    if isinstance(one, Tensor | np.ndarray):
        return image_labels(one, n, name="classes")
    if isinstance(one, int | np.integer) and not isinstance(one, bool):
        return int(one)
    if isinstance(one, list | tuple):
        raise UsageError(f"classes holds {one!r}; give labels for each image as a tensor")
    value = f'"{one}"' if isinstance(one, str) else repr(one)
    raise UsageError(f"classes = {value}; choose {_VALID}")


def image_labels(labels: Tensor | np.ndarray[Any, Any], n: int, *, name: str) -> Tensor:
    """Return the labels as a tensor; raise UsageError unless they are whole numbers (n,)."""
    labels = torch.as_tensor(labels)
    fractions = labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
    if labels.shape != (n,) or fractions:
        raise UsageError(
            f"{name}: {labels.dtype} {tuple(labels.shape)} for {n} images; "
            f"labels are whole numbers ({n},)"
        )
    return labels


def class_indices(
    classes: Sequence[str | int | Tensor], logits: Tensor, rows: slice, *, single: bool
) -> Tensor:
    """Return (N, M) int64 for the images of `logits` (N, K), which are `rows` of all images.

    Of a network with a `single` logit, the index 0 of this output asks for what it speaks for,
    class 1.
    """
    n, k = logits.shape
    columns = []
    for one in classes:
        if isinstance(one, int):
            if single and one != 0:
                raise UsageError(
                    f"classes = {one}, but the model has one logit: 0 asks for what it speaks "
                    "for; for the side of each image give labels (N,), 0 or 1, as a tensor"
                )
            index = torch.tensor([one + single], device=logits.device)
            columns.append(in_range(index, k).expand(n, 1))
        elif isinstance(one, Tensor):
            columns.append(in_range(one[rows].to(logits.device), k)[:, None])
        elif one == "predicted":
            columns.append(logits.argmax(dim=1, keepdim=True))
        else:
            columns.append(torch.arange(k, device=logits.device).expand(n, k))
    return torch.cat(columns, dim=1)


def list_note(classes: Classes, n: int) -> str:
    """Return a note if `classes` may be meant as a label for each of `n` images, else ""."""
    if not isinstance(classes, list | tuple) or not len(classes) == n > 1:
        return ""
    if not all(isinstance(one, int | np.integer) for one in classes):
        return ""
    return (
        f"classes: {n} indices give {n} maps of each image; to get one map an image, of its label, "
        "give the labels as a tensor"
    )


def in_range(labels: Tensor, k: int) -> Tensor:
    """Return the labels as int64; raise UsageError if one is not a class of `k`."""
    wrong = labels[(labels < 0) | (labels >= k)]
    if len(wrong):
        raise UsageError(
            f"class {int(wrong[0])} does not exist: the model has {k} classes, 0 to {k - 1}"
        )
    return labels.long()


def rival_classes(logits: Tensor, classes: Tensor, against: Tensor | None) -> Tensor:
    """Return the class to tell each of `classes` from, (N, M).

    It is the class of `against` (N,), or the class with the nearest logit where `against` is None
    or the class itself.

    Finer-CAM is Grad-CAM of y_c - y_d: the evidence for c and not for d. The paper multiplies y_d
    by 0.6 and takes the mean of three such d; here it is the plain difference of two logits.

    Zhang et al. 2025, "Finer-CAM", arXiv 2501.11309.
    """
    own = F.one_hot(classes, logits.shape[1]).bool()  # (N, M, K)
    distance = (logits[:, None] - logits.gather(1, classes)[..., None]).abs()
    nearest = distance.masked_fill(own, torch.inf).argmin(dim=2)
    if against is None:
        return nearest
    rivals = in_range(against.to(logits.device), logits.shape[1])[:, None]
    return torch.where(rivals == classes, nearest, rivals)
