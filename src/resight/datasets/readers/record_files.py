"""Files of records: Parquet, and Arrow as `datasets.save_to_disk` writes it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...files import check_file
from ..tree import Source
from .limits import check_unpacked

MAX_BYTES = 2**36  # of one file
_ROWS = 16  # pictures read at a time; more are not faster


@dataclass(frozen=True)
class RecordFile:
    """A table of images, in a file or in memory.

    name: for ids. where: for messages. schema: of Arrow. batches: gives the arrays of a column, a
    few rows each. num_rows: None where only reading tells. num_bytes: of the file; None in memory.
    """

    name: str
    where: str
    schema: Any
    batches: Callable[[str], Iterator[Any]]
    num_rows: int | None = None
    num_bytes: int | None = None

    def column(self, name: str) -> Any:
        """Return a whole column, chunked."""
        import pyarrow as pa

        arrays = list(self.checked(name))
        return pa.chunked_array(arrays, arrays[0].type if arrays else self.schema.field(name).type)

    def checked(self, name: str) -> Iterator[Any]:
        """Yield the arrays of a column.

        Raises:
            UsageError: they unpack to very much more than the file.
            OSError: there are fewer rows than the file says.
        """
        rows = unpacked = 0
        for array in self.batches(name):
            rows += len(array)
            unpacked += array.nbytes
            if self.num_bytes is not None:
                check_unpacked(self.where, packed=self.num_bytes, unpacked=unpacked)
            yield array
        if self.num_rows not in (None, rows):
            raise OSError(f"{rows:,} values for {self.num_rows:,} rows")


def is_record_file(name: str) -> bool:
    """Return whether the name of a file ends as one of Parquet or Arrow."""
    base = name.rpartition("/")[2].lower()
    is_memo = base.startswith(("cache-", "indices-")) and base.endswith(".arrow")
    return base.endswith((".parquet", ".parq", ".arrow", ".feather")) and not is_memo


def open_records(source: Source, name: str, where: str) -> RecordFile:
    """Open a file of Parquet or Arrow; its rows are not read yet.

    Raises:
        UsageError: it lists more rows than bytes.
        ArrowException, OSError: it is damaged.
    """
    if isinstance(source, Path):
        size = check_file(source, MAX_BYTES)
        with source.open("rb") as file:
            start = file.read(4)
    else:
        size, start = len(source), source[:4]
    opened = (_open_parquet if start == b"PAR1" else _open_arrow)(source, name, where, size)
    if opened.num_rows and opened.num_rows > size:
        raise UsageError(
            f"{where} lists {opened.num_rows:,} rows in {size:,} bytes, so they hold no pictures; "
            "get it again"
        )
    return opened


def _open_parquet(source: Source, name: str, where: str, size: int) -> RecordFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def opened(**options: Any) -> Any:
        # Not mapped into memory: if a mapped file is cut meanwhile, the process dies of SIGBUS.
        return pq.ParquetFile(BytesIO(source) if isinstance(source, bytes) else source, **options)

    head = opened()
    schema = head.schema_arrow

    def batches(column: str) -> Iterator[Any]:
        kind = schema.field(column).type
        is_word = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        # As a dictionary, a word that many rows share is in memory once.
        file = opened(read_dictionary=[column] if is_word else None)
        for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
            yield batch.column(0)

    return RecordFile(name, where, schema, batches, head.metadata.num_rows, size)


def _open_arrow(source: Source, name: str, where: str, size: int) -> RecordFile:
    import pyarrow as pa

    def batches(column: str) -> Iterator[Any]:
        with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            if is_file:
                reader = pa.ipc.open_file(file)
                records = (reader.get_batch(place) for place in range(reader.num_record_batches))
            else:
                records = iter(pa.ipc.open_stream(file))
            for batch in records:
                array = batch.column(column)
                array.validate(full=True)  # or forged offsets lead out of the memory of the file
                for start in range(0, len(array), _ROWS):
                    yield array[start : start + _ROWS]

    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        schema = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).schema
    return RecordFile(name, where, schema, batches, None, size)
