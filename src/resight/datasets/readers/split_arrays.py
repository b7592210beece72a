"""Arrays of images and of labels, as their owner divided them, to a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ..dataset import Split
from .contents import LoadedData, ReadOptions, SplitName, make_split
from .images import fit_arrays
from .labels import UNLABELED, Label, encode_labels
from .pixels import Array, to_pixels


@dataclass(frozen=True)
class ArraySplit:
    """The images of one split, in any order of axes and any range, and the label of each.

    name: of the images, for their ids and for messages. labels_name: of the labels, for messages.
    """

    name: str
    images: Array
    labels_name: str
    labels: Sequence[Label]
    ids: Sequence[str] | None = None  # None: the name and the row

    @property
    def image_ids(self) -> Sequence[str]:
        """The id of each image."""
        return self.ids or [f"{self.name}[{row}]" for row in range(len(self.labels))]


def load_split_arrays(
    splits: Mapping[SplitName, ArraySplit],
    options: ReadOptions,
    *,
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> LoadedData:
    """Convert the images and labels of all splits to a data set.

    Images whose label is not known are left out. A split that has no others is None.

    Raises:
        UsageError: the images or labels are none, or do not fit together.
    """
    encoded = encode_labels({s.labels_name: s.labels for s in splits.values()}, class_names)
    counts = {s.name: len(s.labels) for s in splits.values()}
    pixels, pixel_notes = to_pixels({s.name: s.images for s in splits.values()}, counts)
    all_notes = [*notes, *encoded.notes, *pixel_notes]
    loaded: dict[SplitName, Split] = {}
    for name, split in splits.items():
        images, numbers = pixels[split.name], encoded.numbers[split.labels_name]
        if len(images) != len(numbers):
            raise UsageError(
                f"{split.name} has {len(images):,} images but {len(numbers):,} labels; give each "
                "image one"
            )
        rows = (numbers != UNLABELED).nonzero()[0]
        if not len(rows):
            continue
        ids = split.image_ids
        if len(rows) < len(ids):
            images, numbers, ids = images[rows], numbers[rows], [ids[row] for row in rows]
        images, fit_notes = fit_arrays(images, options.image_size, options.resize)
        all_notes += fit_notes
        loaded[name] = make_split(images, numbers, ids)
    shapes = {name: tuple(split.images.shape[1:]) for name, split in loaded.items()}
    if len(set(shapes.values())) > 1:
        sizes = " and ".join(f"{name} images of {shape}" for name, shape in shapes.items())
        raise UsageError(
            f"{sizes} differ in size or channels; make them alike, or give data.image_size if only "
            "the sizes differ"
        )
    return LoadedData(
        encoded.classes,
        loaded.get("train"),
        loaded.get("val"),
        loaded.get("test"),
        notes=tuple(dict.fromkeys(all_notes)),
    )
