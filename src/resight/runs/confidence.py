"""How sure a run may be of its answers: a temperature, validation answers, training features.

The temperature lies in the head of the weights. `confidence.npz` has the confidence of validation
images and whether it was right, and features of training images, which new pictures are compared
with. A 1-nearest neighbor by cosine tells other pictures apart better than Mahalanobis distance
(Lee et al. 2018) and neighbors by Euclidean distance (Sun et al. 2022) do: docs/experiments.md.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import Split
from ..errors import UsageError
from ..metrics.confidence import (
    CoverageRow,
    coverage_table,
    fit_temperature,
    with_temperature,
)
from ..networks.unwrap import device_of
from ..records import BoolArray, FloatArray, evenly_spaced
from ..training.features import features, name_to_keep
from ..training.state import TrainData
from .checkpoint import ModelInfo, save_temperature
from .inference import predict_images
from .parts import DAMAGE, read_arrays, write_arrays
from .summary import ConfidenceResult

FILE = "confidence.npz"
MAX_FEATURES = 1_000  # training images kept: 1 MB for 512 features in float16
MAX_VALIDATION = 2_000  # images whose distances give the limit
MIN_VALIDATION = 30  # with fewer, one ordinary picture in thirty or more would be flagged
_QUANTILE = 0.99  # of the validation distances, beyond which a picture is unlike them
_MIN_LIMIT = 1e-6  # what rounding leaves of the distance of equal features


@dataclass(frozen=True)
class Reference:
    """What new predictions are compared with.

    confidence, correct: (N,) of the validation images, at the run's temperature.
    features: (M, D) float32 of training images, each of length 1; (0, 0) where there are none.
    limit: the distance that 99 % of the validation images do not exceed.
    note: why there are no distances; empty where there are.
    """

    confidence: FloatArray
    correct: BoolArray
    features: Tensor
    limit: float
    note: str

    def coverage_rows(self, thresholds: tuple[float, ...]) -> tuple[CoverageRow, ...]:
        """Return what share of the validation images reaches each threshold, and how well."""
        return coverage_table(self.confidence, self.correct, thresholds)

    def distances(self, queries: Tensor) -> FloatArray | None:
        """Return the distance of features (N, D) to the nearest, as multiples of the limit."""
        if self.note:
            return None
        return _nearest(queries, self.features) / self.limit


def calibrate(run: Path, model: nn.Module, info: ModelInfo, data: TrainData) -> ConfidenceResult:
    """Fit the temperature of a run's kept weights, and write what `predict` compares with.

    The validation images also chose the epoch, so the figures made of them are slightly too good.
    """
    predictions = predict_images(model, data.val, info) if data.val else None
    temperature = fit_temperature(predictions)
    save_temperature(run, temperature.value)
    reference = _no_reference("there are no validation images")
    if data.val and predictions:
        calibrated = with_temperature(predictions, temperature.value)
        kept, limit, note = _train_features(model, info, data.train, data.val)
        reference = Reference(calibrated.confidence, calibrated.correct, kept, limit, note)
    arrays = {
        "epoch": np.array(info.epoch),
        "confidence": reference.confidence,
        "correct": reference.correct,
        "features": reference.features.numpy().astype(np.float16),
        "limit": np.array(reference.limit),
        "note": np.array(reference.note),
    }
    write_arrays(run / FILE, arrays)
    return ConfidenceResult(temperature, coverage_table(reference.confidence, reference.correct))


def read_reference(run: Path, info: ModelInfo) -> Reference:
    """Return what `calibrate` wrote; if it cannot be used, a reference whose note says why."""
    if not (run / FILE).exists():
        return _no_reference(f"the run has no {FILE}, which a run writes when it is finished")
    try:
        return _checked(read_arrays(run / FILE), info)
    except DAMAGE as error:
        return _no_reference(f"{FILE} is damaged and was passed over: {error}")


def _checked(arrays: dict[str, np.ndarray], info: ModelInfo) -> Reference:
    kinds = {"confidence": "f", "correct": "b", "features": "f", "limit": "f", "note": "U"}
    if any(arrays[name].dtype.kind != kind for name, kind in kinds.items()):
        raise ValueError("its arrays are of other kinds")
    if int(arrays["epoch"]) != info.epoch:
        raise ValueError(f"it belongs to epoch {int(arrays['epoch'])}, not {info.epoch}")
    confidence, correct, kept = arrays["confidence"], arrays["correct"], arrays["features"]
    limit, note = float(arrays["limit"]), str(arrays["note"])
    if confidence.ndim != 1 or confidence.shape != correct.shape or kept.ndim != 2:
        raise ValueError("its arrays are of other sizes")
    if not (np.isfinite(confidence).all() and np.isfinite(kept).all() and limit > 0):
        raise ValueError("it has numbers that are not finite")
    if not note and not len(kept):
        raise ValueError("it has no features")
    return Reference(confidence, correct, torch.from_numpy(kept).float(), limit, note)


def _no_reference(note: str) -> Reference:
    empty = np.zeros(0)
    return Reference(empty, empty.astype(bool), torch.zeros(0, 0), 1.0, note)


def _train_features(
    model: nn.Module, info: ModelInfo, train: Split, val: Split
) -> tuple[Tensor, float, str]:
    """Features of some training images, the limit of distances, and why there are none, or ""."""
    nothing = torch.zeros(0, 0), 1.0
    if len(val) < MIN_VALIDATION:
        return *nothing, f"there are only {len(val)} validation images (at least {MIN_VALIDATION})"
    device = device_of(model, train.device)
    try:
        kept, queries = (
            features(
                model,
                split.select(torch.from_numpy(evenly_spaced(len(split), count))).to(device),
                info.stats,
                training=info.recipe.training,
                keep=name_to_keep(info.recipe),
            ).cpu()
            for split, count in ((train, MAX_FEATURES), (val, MAX_VALIDATION))
        )
    except UsageError as error:
        return *nothing, str(error)
    # As they are read from the file, so that the limit is that of the same features.
    kept = F.normalize(kept, dim=1).half().float()
    if not (kept.isfinite().all() and queries.isfinite().all()):
        return *nothing, "features of the network are not finite"
    limit = float(np.quantile(_nearest(queries, kept), _QUANTILE, method="higher"))
    return kept, max(limit, _MIN_LIMIT), ""


def _nearest(queries: Tensor, kept: Tensor) -> FloatArray:
    """Return 1 - cosine of each of (N, D) with the most similar of (M, D): (N,) in [0, 2]."""
    cosines = F.normalize(queries, dim=1) @ F.normalize(kept, dim=1).T  # (N, M)
    return np.asarray((1 - cosines.amax(dim=1)).clamp_min(0).double().numpy())
