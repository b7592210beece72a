"""What every search for a cause starts from: a network, its data, its predictions and features."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...datasets import Split
from ...networks.unwrap import device_of
from ...records import FloatArray, IntArray, Predictions, evenly_spaced
from ...training.predict import predict_split
from ..neighbors import nearest_neighbors
from ..steps import ExplainInputs
from .attributes import ATTRIBUTES, attribute_values

NUM_NEAREST = 20  # training images that say which classes lie near an image
MAX_ATTRIBUTES = 10_000  # training images whose attributes are measured


@dataclass(frozen=True)
class CauseInputs:
    """A run as the searches for causes see it; what is costly is computed once, when first used."""

    explained: ExplainInputs

    @property
    def train(self) -> Split:
        """The training images."""
        return self.explained.train

    @property
    def test(self) -> Split:
        """The test images."""
        return self.explained.test

    @property
    def predictions(self) -> Predictions:
        """The predictions of the test images that the run has saved."""
        return self.explained.predictions

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.predictions.classes

    @cached_property
    def wrong(self) -> IntArray:
        """The rows of the mistakes."""
        return np.flatnonzero(~self.predictions.correct)

    @cached_property
    def train_labels(self) -> IntArray:
        """(M,) the labels of all training images."""
        return np.asarray(self.train.labels.cpu().numpy())

    def probs(self, images: Tensor) -> FloatArray:
        """Return what the network says of images (n, C, H, W) uint8: probabilities (n, K).

        Every image counts as it is, without test-time augmentation.
        """
        if not len(images):
            return np.zeros((0, len(self.classes)))
        explained, n = self.explained, len(images)
        device = device_of(explained.model, images.device)
        split = Split(
            images.to(device), torch.zeros(n, dtype=torch.int64, device=device), ("",) * n
        )
        predictions = predict_split(
            explained.model,
            split,
            explained.stats,
            classes=self.classes,
            training=explained.recipe.training,
        )
        return predictions.probs

    def preds(self, images: Tensor) -> IntArray:
        """Return the class (n,) that the network predicts for images (n, C, H, W) uint8."""
        return np.asarray(self.probs(images).argmax(axis=1))

    def images(self, rows: IntArray) -> Tensor:
        """Return test images at rows, (n, C, H, W) uint8 on the CPU."""
        return self.test.images_at(torch.from_numpy(np.asarray(rows))).cpu()

    def train_images(self, rows: IntArray) -> Tensor:
        """Return training images at rows, (n, C, H, W) uint8 on the CPU."""
        return self.train.images_at(torch.from_numpy(np.asarray(rows))).cpu()

    @cached_property
    def near(self) -> tuple[IntArray, FloatArray]:
        """The classes (N, 20) of the training images nearest to each test image, and cosines."""
        features = self.explained.features
        labels, cosines = [], []
        for part in torch.split(features.test, 1000):
            rows, values = nearest_neighbors(part, features.train, NUM_NEAREST)
            labels.append(features.labels[rows])
            cosines.append(values)
        return torch.cat(labels).numpy(), torch.cat(cosines).double().numpy()

    @cached_property
    def near_shares(self) -> FloatArray:
        """(N, K) the share of each class among the training images nearest to a test image."""
        labels = self.near[0]
        counts = [(labels == k).mean(axis=1) for k in range(len(self.classes))]
        return np.stack(counts, axis=1)

    @cached_property
    def attributes(self) -> FloatArray:
        """(N, A) the attributes of the test images."""
        return attribute_values(self.test, np.arange(len(self.test)))

    @cached_property
    def train_rows(self) -> IntArray:
        """The rows of the training images whose attributes are measured, at most 10,000."""
        return evenly_spaced(len(self.train), MAX_ATTRIBUTES)

    @cached_property
    def train_attributes(self) -> FloatArray:
        """(M, A) the attributes of the training images `train_rows`."""
        return attribute_values(self.train, self.train_rows)


__all__ = ["ATTRIBUTES", "CauseInputs"]
