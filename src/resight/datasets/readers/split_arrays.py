"""Images in arrays or in files, with their labels, as their owner divided them, to a data set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ..dataset import Split
from ..tree import Source
from .classes import keep_trained_classes
from .contents import LoadedData, ReadOptions, SplitName, make_split
from .images import Pictures, fit_arrays, load_pictures
from .labels import UNLABELED, Label, NumberedLabels, encode_labels, keep_labeled
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
    shapes = {name: tuple(split.shape[1:]) for name, split in loaded.items()}
    if len(set(shapes.values())) > 1:
        sizes = " and ".join(f"{name} images of {shape}" for name, shape in shapes.items())
        raise UsageError(
            f"{sizes} differ in size or channels; make them alike, or give data.image_size if only "
            "the sizes differ"
        )
    notes = tuple(dict.fromkeys(all_notes))
    data = LoadedData(encoded.classes, None, notes=notes).with_splits(loaded)
    return keep_trained_classes(data, options)


def load_split_pictures(
    ids: Mapping[SplitName, Sequence[str]],
    encoded: NumberedLabels,
    sources: Callable[[], Iterable[Source]],
    options: ReadOptions,
    *,
    notes: Sequence[str] = (),
) -> LoadedData:
    """Decode the pictures of all splits, given the id and the number of the label of each.

    sources: yields the pictures whose label is known, in this order, each time it is called.

    Raises:
        UsageError: a picture cannot be read.
    """
    numbered = keep_labeled(ids, encoded)
    names = [name for some, _ in numbered.values() for name in some]
    loaded = load_pictures(
        encoded.classes,
        numbered,
        Pictures(names, sources),
        options=options,
        notes=(*notes, *encoded.notes),
    )
    return keep_trained_classes(loaded, options)
