"""Picture columns of Parquet files and of Arrow files that `datasets.save_to_disk` writes.

A picture column is what Hugging Face `datasets` calls Image: a struct of `bytes`, a picture file, and
`path`. A column of plain binary whose values are picture files is one, too. Other columns are copied if they
are known to hold no picture.
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from blockenc.datasets.formats import suspicion
from blockenc.datasets.pictures import Encoded, too_large
from blockenc.datasets.pixels import ImageFileError, RefusedError, Size
from blockenc.datasets.reading import DEFAULT, Reading
from blockenc.errors import BlockencError

if TYPE_CHECKING:
    from blockenc.datasets.formats import Change

ROWS = 64  # handled, and written as a row group, at once: photos may have megabytes each
FILE = b"ARROW1\0\0"  # with which Arrow's file format begins; the stream format stands behind it
METADATA = "@metadata"  # what --copy calls the names and metadata of a table and its columns, nested ones too
NUMBERS = "@numbers"  # and the numbers of several columns or rows, which could be a picture together
SQUEEZED = 16  # times that a file of pictures, which are compressed already, does not shrink further


class ArrowTables:
    name = "arrow"

    def names(self, file: str) -> bool:
        # datasets keeps results of map() in cache files beside the data; they are made anew.
        return file.endswith((".parquet", ".arrow")) and not file.startswith("cache-")

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        return name

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[Size, tuple[int, ...]]]:
        with _open(path, reading) as (schema, batches):
            _check_schema(schema, path, reading)
            judge = _Judge(path, reading, schema, reading.copies)
            for batch in batches(judge.columns):
                judge(batch)
        return []

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        with _open(path, reading) as (schema, batches):
            _check_schema(schema, path, reading)
            columns = [field.name for field in schema if _is_picture_column(field, reading)]
            for batch in batches(columns):
                for column in columns:
                    for value in batch.column(column):
                        if data := _picture(value.as_py(), path, column):
                            yield Encoded(data, f"{path}, column {column}")

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        pa, reading = _pyarrow(), change.reading
        with _open(source, reading) as (schema, batches):
            _check_schema(schema, source, reading)
            judge = _Judge(source, reading, schema, change.copies)
            if not reading.trusted and _of_schema(schema):
                change.copies(METADATA)
            for field in schema:
                change.copies(field.name)
            if source.suffix == ".parquet":
                import pyarrow.parquet

                writer = pyarrow.parquet.ParquetWriter(target, schema)
            else:
                writer = (pa.ipc.new_file if _is_file(source) else pa.ipc.new_stream)(target, schema)
            with writer:
                for batch in batches(None):
                    judge(batch)
                    columns = [
                        _changed(column, field, source, change)
                        if _is_picture_column(field, reading)
                        else _bare(column)
                        for column, field in zip(batch.columns, schema)
                    ]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise BlockencError("Parquet and Arrow files need pyarrow: pip install 'blockenc[data]'") from None
    return pyarrow


@contextlib.contextmanager
def _open(path: Path, reading: Reading) -> Iterator[tuple[Any, Any]]:
    """The schema of a file, and a function from names of columns (None: all) to its record batches.

    Batches have ROWS rows at most and are validated in full: offsets and text may be anything in a hostile
    file. Raises ImageFileError.
    """
    pa = _pyarrow()
    with contextlib.ExitStack() as stack:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            with _damage(path):
                file = stack.enter_context(pyarrow.parquet.ParquetFile(path))
                for n in range(file.num_row_groups):
                    size = file.metadata.row_group(n).total_byte_size
                    if size > max(reading.max_bytes, SQUEEZED * path.stat().st_size):
                        raise too_large(path, f"row group {n} of {size >> 20} MB", reading)
                schema = file.schema_arrow

            def batches(columns: list[str] | None) -> Iterator[Any]:
                # Each row group by itself: one reader for all of them keeps what it has read. Without
                # threads, which would each hold a column.
                for n in range(file.num_row_groups):
                    group, found = file.metadata.row_group(n), 0
                    rows = _rows(group.total_byte_size, path, reading)
                    for batch in _guarded(
                        path, file.iter_batches(rows, row_groups=[n], columns=columns, use_threads=False)
                    ):
                        found += batch.num_rows
                        yield batch
                    if found != group.num_rows:  # pyarrow ends where the shortest column does
                        raise ImageFileError(
                            f"{path}: a damaged table (row group {n} has {found} of {group.num_rows} rows)"
                        )
        else:
            with _damage(path):
                start = len(FILE) if _is_file(path) else 0
                memory = stack.enter_context(pa.memory_map(str(path)))
                memory.seek(start)
                for message in pa.ipc.MessageReader.open_stream(memory):
                    if _is_compressed(message.metadata.to_pybytes()):
                        raise RefusedError(
                            f"{path}: its batches are compressed; write it without compression"
                        )
                memory.seek(start)
                stream = pa.ipc.open_stream(memory)
                schema = stream.schema

            def batches(columns: list[str] | None) -> Iterator[Any]:
                for batch in _guarded(path, stream):
                    chosen = batch if columns is None else batch.select(columns)
                    for k in range(0, batch.num_rows, ROWS):
                        yield chosen.slice(k, ROWS)

        with _damage(
            path
        ):  # a name that is no UTF-8 is an error wherever it is asked for: here, and only here
            for column in schema:
                for field in _fields(column):
                    _ = field.name
        yield schema, batches


def _is_file(path: Path) -> bool:
    """Whether this is Arrow's file format (Feather), not its stream format."""
    with open(path, "rb") as file:
        return file.read(len(FILE)) == FILE


def _rows(size: int, path: Path, reading: Reading) -> int:
    """The rows to read at once of a row group of `size` bytes: a value stored once may stand in all of them.

    Its columns are not asked for their sizes: on some damaged files that ends the process.
    """
    if size <= SQUEEZED * path.stat().st_size:
        return ROWS
    return min(ROWS, max(1, reading.max_bytes // size))


def _guarded(path: Path, batches: Iterator[Any]) -> Iterator[Any]:
    with _damage(path):
        for batch in batches:
            batch.validate(full=True)
            yield batch


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Name the file in what pyarrow raises on damaged data."""
    pa = _pyarrow()
    try:
        yield
    except (BlockencError, FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, struct.error, MemoryError) as error:
        raise ImageFileError(f"{path}: not a table, or a damaged one ({error or 'out of memory'})") from None


def _is_compressed(message: bytes) -> bool:
    """Whether a message of an Arrow stream holds compressed buffers, whose sizes could be anything.

    Read from its FlatBuffers table (format/Message.fbs): pyarrow does not tell.
    """

    def field(table: int, number: int) -> int | None:
        vtable = table - struct.unpack_from("<i", message, table)[0]
        (size,) = struct.unpack_from("<H", message, vtable)
        place = 4 + 2 * number
        (offset,) = struct.unpack_from("<H", message, vtable + place) if place < size else (0,)
        return table + offset if offset else None

    def follow(place: int | None) -> int:
        if place is None:
            raise ValueError("a message without a body")
        return int(place + struct.unpack_from("<I", message, place)[0])

    root = follow(0)
    kind = field(root, 1)
    kind = message[kind] if kind is not None else 0
    if kind == 2:  # a dictionary, which holds a record batch
        return field(follow(field(follow(field(root, 2)), 1)), 3) is not None
    return kind == 3 and field(follow(field(root, 2)), 3) is not None


def _is_binary(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _names_pictures(kind: Any) -> bool:
    """Whether a type is a struct of bytes and path, as `datasets` has pictures."""
    types = _pyarrow().types
    return bool(types.is_struct(kind)) and {kind.field(k).name for k in range(kind.num_fields)} == {
        "bytes",
        "path",
    }


def _is_picture_column(field: Any, reading: Reading) -> bool:
    """Whether values of a column are taken for picture files."""
    return (_names_pictures(field.type) or _is_binary(field.type)) and not reading.copies(field.name)


def _check_schema(schema: Any, path: Path, reading: Reading) -> None:
    """Raise ImageFileError for columns that their types tell to be unknown, and for odd metadata."""
    if repeated := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise RefusedError(f"{path}: several columns are called {repeated[0]}; rename them")
    if reading.trusted:
        return
    for name in (METADATA, NUMBERS):
        if name in schema.names:
            raise RefusedError(f"{path}: column {name}: the name stands for more in --copy; rename it")
    for field in schema:
        name = f"{path}: column {field.name} ({_short(field.type)})"
        if reading.copies(field.name):
            continue
        if _names_pictures(field.type):
            parts = {field.type.field(k).name: field.type.field(k).type for k in range(2)}
            is_null = _pyarrow().types.is_null
            if not (_is_binary(parts["bytes"]) or is_null(parts["bytes"])) or not (
                _is_text(parts["path"]) or is_null(parts["path"])
            ):
                raise RefusedError(f"{name}: pictures are structs of binary bytes and a string path")
        else:
            suspicion.refuse(name, _of_type(field.type), f"{reading.file}/{field.name}")
    if (found := _of_schema(schema)) and not reading.copies(METADATA):
        suspicion.refuse(f"{path}: {found[0]}", found[1], f"{reading.file}/{METADATA}")


def _of_schema(schema: Any) -> tuple[str, str] | None:
    """Where in the names and metadata of a table something may be a picture, and what about it."""
    if what := _of_metadata(schema.metadata):
        return "metadata of the schema", what
    for column in schema:
        for field in _fields(column):
            place = f"column {column.name[:80]}"
            if what := suspicion.name(field.name):
                return f"{place}: a name", what
            if what := _of_metadata(field.metadata):
                return f"{place}: metadata", what
    return None


def _fields(field: Any) -> Iterator[Any]:
    """A field, and those that are nested in it."""
    yield field
    kind = field.type
    if isinstance(kind, _pyarrow().BaseExtensionType):
        kind = kind.storage_type
    if _pyarrow().types.is_dictionary(kind):
        kind = kind.value_type
    for k in range(kind.num_fields):
        yield from _fields(kind.field(k))


def _short(kind: Any) -> str:
    text = str(kind)
    return text if len(text) < 80 else text[:76] + " ..."


def _of_metadata(metadata: dict[bytes, bytes] | None) -> str | None:
    found = (suspicion.data(part) for pair in (metadata or {}).items() for part in pair)
    return next((what for what in found if what), None)


def _of_type(kind: Any) -> str | None:
    """What about a type may be pictures, whatever the values."""
    types = _pyarrow().types
    if isinstance(kind, _pyarrow().BaseExtensionType):
        return _of_type(kind.storage_type)
    if types.is_union(kind) or types.is_run_end_encoded(kind):
        return "values of a type that is not looked through"
    if _names_pictures(kind):
        return "nested pictures"
    if types.is_dictionary(kind):
        return _of_type(kind.value_type)
    if types.is_nested(kind):
        parts = [kind.field(k).type for k in range(kind.num_fields)]
        return next((what for part in parts if (what := _of_type(part))), None)
    return None


class _Judge:
    """Refuses batches of a table in which something besides the picture columns may hold pictures.

    copies: tells whether what has a name is copied as it is, and may note it.
    """

    def __init__(self, path: Path, reading: Reading, schema: Any, copies: Callable[[str], bool]) -> None:
        self.path, self.reading, self.copies = path, reading, copies
        judged = [] if reading.trusted else [f for f in schema if not reading.copies(f.name)]
        self.pictures = [f.name for f in judged if _is_picture_column(f, reading)]
        self.columns = [f.name for f in judged if f.name not in self.pictures]
        self.loose = 0  # numbers and bytes in rows that have neither a picture nor a text
        self.numbers_copied = False

    def __call__(self, batch: Any) -> None:
        for name in self.columns:
            column = batch.column(name)
            place = f"{self.path}: column {name} ({_short(column.type)})"
            suspicion.refuse(place, _of_values(column), f"{self.reading.file}/{name}")
        if batch.num_rows and not self.numbers_copied:
            leaves = [leaf for name in self.columns for leaf in _leaves(name, batch.column(name))]
            self._wide(leaves)
            if not self.pictures or self.pictures[0] in batch.schema.names:  # not without them, beforehand
                self._long(batch, leaves)

    def _wide(self, leaves: list[tuple[str, Any]]) -> None:
        """Pictures of which each pixel, or each line, has a column."""
        for kind, columns in _by_type(leaves, _is_number):
            if len(columns) >= suspicion.SMALLEST:
                rows = np.column_stack([_to_numpy(column) for column in columns])
                self._refuse(f"{len(columns)} columns of {kind}", suspicion.rows(rows))
        for kind, columns in _by_type(leaves, _is_numbers):
            for values in zip(*columns) if len(columns) >= suspicion.FEW else ():
                lines = [_to_numpy(value.values) for value in values if value.is_valid]
                same = Counter(map(len, lines)).most_common(1)
                if same and same[0][1] >= suspicion.FEW:  # lines of a picture are equally long
                    what = suspicion.numbers(np.concatenate(lines))
                    self._refuse(f"{len(columns)} columns of {kind}", what)

    def _long(self, batch: Any, leaves: list[tuple[str, Any]]) -> None:
        """Pictures of which each pixel, or each line, has a row; short binaries are like numbers."""
        held = [[_held(value.as_py()) or b"" for value in batch.column(name)] for name in self.pictures]
        held += [[value.as_py() or b"" for value in column] for _, column in leaves if _is_bytes(column.type)]
        short = np.array([[0 if _is_picture(v) else len(v) for v in values] for values in held], int)
        short = short.reshape(len(held), batch.num_rows)
        together = short.sum(axis=0)
        if (((short > 0).sum(axis=0) >= suspicion.FEW) & (together >= suspicion.SMALLEST)).any():
            self._refuse(f"{len(held)} columns of binary", f"{together.max()} bytes in one row")
        owned = np.zeros(batch.num_rows, bool)
        for values in held:
            owned |= [_is_picture(value) for value in values]
        for _, column in leaves:
            owned |= _has_text(column)
        counts = together
        for _, column in leaves:
            if _is_number(column.type):
                counts = counts + 1
            elif _is_list(column.type):
                counts = counts + [_count(value) for value in column]
        self.loose += int(counts[~owned].sum())
        if self.loose >= suspicion.SMALLEST:
            names = [name for name, column in leaves if _is_number(column.type) or _is_list(column.type)]
            what = f"{self.loose} numbers or more in rows that have neither a picture nor a text"
            self._refuse(f"columns {', '.join([*names, *self.pictures][:3])}", what)

    def _refuse(self, place: str, what: str | None) -> None:
        """What several columns or rows hold together."""
        if what and not self.numbers_copied:
            self.numbers_copied = self.copies(NUMBERS)
            if not self.numbers_copied:
                suspicion.refuse(f"{self.path}: {place}", what, f"{self.reading.file}/{NUMBERS}")


def _by_type(leaves: list[tuple[str, Any]], admits: Callable[[Any], bool]) -> Iterable[tuple[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    for _, column in leaves:
        if admits(column.type):
            found.setdefault(str(column.type), []).append(column)
    return found.items()


def _leaves(name: str, column: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a column that are no structs, with their names; one value for each row."""
    types, kind = _pyarrow().types, column.type
    if isinstance(kind, _pyarrow().BaseExtensionType):
        yield from _leaves(name, column.storage)
    elif types.is_dictionary(kind) and _is_number(kind.value_type):
        yield name, column.dictionary_decode()
    elif types.is_struct(kind):
        for k, part in enumerate(column.flatten()):
            yield from _leaves(f"{name}.{kind.field(k).name}", part)
    else:
        yield name, column


def _has_text(column: Any) -> np.ndarray:
    """Which rows of a column hold a text that is not empty."""
    types = _pyarrow().types
    if types.is_dictionary(column.type):  # its texts are not copied for each row
        full = _has_text(column.dictionary)
        return np.array([k is not None and full[k] for k in column.indices.to_pylist()], bool)
    if not _is_text(column.type):
        return np.zeros(len(column), bool)
    return np.array([bool(value) for value in column.to_pylist()], bool)


def _count(value: Any) -> int:
    """The numbers in a list, however deep."""
    if not value.is_valid:
        return 0
    part = value.values
    while _is_list(part.type):
        part = part.flatten()
    return sum(len(leaf) for _, leaf in _leaves("", part) if _is_number(leaf.type))


def _is_number(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_primitive(kind) or types.is_decimal(kind))


def _to_numpy(column: Any) -> np.ndarray:
    """Numbers [N], dates and times as the integers that they are; intervals [N, 3]."""
    pa, kind = _pyarrow(), column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_interval(kind):
        return np.array([value or (0, 0, 0) for value in column.to_pylist()], np.int64)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    array: np.ndarray = column.to_numpy(zero_copy_only=False)
    return array


def _of_values(column: Any) -> str | None:
    """What about the values of a column, each one by itself, may be a picture."""
    types, kind = _pyarrow().types, column.type
    if isinstance(kind, _pyarrow().BaseExtensionType):
        return _of_values(column.storage)
    if types.is_dictionary(kind):
        return _of_values(column.dictionary)
    if _is_number(kind) or types.is_null(kind):
        return None
    if _is_numbers(kind):
        lists = (value.values for value in column if value.is_valid)
        found = (suspicion.numbers(_to_numpy(values)) for values in lists)
    elif _is_list(kind) and _is_bytes(kind.value_type):
        found = (_of_binaries(value or []) for value in column.to_pylist())
    else:
        found = (suspicion.plain(value) for value in column.to_pylist())
    return next((what for what in found if what), None)


def _of_binaries(values: list[bytes | None]) -> str | None:
    """What about a list of binaries may be a picture; short ones may be its lines."""
    size = sum(map(len, filter(None, values)))
    return suspicion.plain(values) or (f"{size} bytes" if size >= suspicion.SMALLEST else None)


def _is_list(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _is_numbers(kind: Any) -> bool:
    """Lists of numbers."""
    types = _pyarrow().types
    return _is_list(kind) and bool(types.is_integer(kind.value_type) or types.is_floating(kind.value_type))


def _is_bytes(kind: Any) -> bool:
    return _is_binary(kind) or bool(_pyarrow().types.is_fixed_size_binary(kind))


def _bare(column: Any) -> Any:
    """A copy without what lies in the buffers beside the values: under nulls, between and behind them."""
    pa = _pyarrow()
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _bare(column.storage))
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(
            _bare(column.indices), _bare(column.dictionary), ordered=kind.ordered
        )
    if pa.types.is_nested(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.array(column.to_pylist(), type=kind)
    return column.take(pa.array(range(len(column)), pa.int64()))


def _held(value: Any) -> bytes | None:
    return value["bytes"] if isinstance(value, dict) else value  # type: ignore[no-any-return]


def _picture(value: Any, path: Path, column: str) -> bytes | None:
    """The picture file that a value is; None for none. Raises ImageFileError for the name of a file."""
    data = _held(value)
    if isinstance(value, dict) and data is None and value["path"] is not None:
        raise RefusedError(
            f"{path}, column {column}: names the file {value['path']} instead of holding it; embed it"
        )
    return data if data is not None and _is_picture(data) else None


def _is_picture(data: bytes) -> bool:
    """Whether a value is taken for a picture file: it is more than a few bytes, such as an identifier."""
    return len(data) >= suspicion.SMALLEST or suspicion.MAGIC.match(data) is not None


def _changed(column: Any, field: Any, path: Path, change: Change) -> Any:
    title = f"{path}, column {field.name}"

    def changed(value: Any) -> Any:
        data = _picture(value, path, field.name)
        if data is None:
            return value
        new = change.picture(data, title)
        if not isinstance(value, dict):
            return new
        name = value["path"]
        if name and not change.reading.trusted:
            suspicion.refuse(f"{title}, path", suspicion.text(name), f"{change.reading.file}/{field.name}")
        return {
            "bytes": new,
            "path": name and PurePosixPath(name).with_suffix(change.reading.suffix).as_posix(),
        }

    return _pyarrow().array([changed(value.as_py()) for value in column], type=field.type)
