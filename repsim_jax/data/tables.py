"""Which examples are in a parquet file? Encoded images or text of one column, a row group at a time."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.data.images import decode_image
from repsim_jax.data.sources import Source
from repsim_jax.errors import BadArrayError, CorruptFileError, MissingPackageError, UnknownNameError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

# Between the id of a row and the number of one of its texts.
MARK = "#"
_TEXTS = "texts"


def parquet_source(path: Path, column: str | None, id_column: str | None) -> Source:
    """Opens one column of a parquet file.

    Args:
        path: The file.
        column: Bytes, or {"bytes": ...} as Hugging Face writes them: images. Strings: text. Lists of numbers: arrays.
            Lists of strings, such as several captions of one image: text, each string an example of its own with id
            "ID#0", "ID#1", ... None takes the only column that can hold examples.
        id_column: Column of ids; row numbers where None.

    Returns:
        The source; it holds one row group of the column in memory at a time.

    Raises:
        UnknownNameError: If there is no such column, or none was named where several would do.
        BadArrayError: If the column cannot hold examples, or an id is missing.
        CorruptFileError: If the file is damaged.
        MissingPackageError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError.of("pyarrow", "to read parquet files", "table") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CorruptFileError(path, f"is not a whole parquet file ({error}).") from error
    schema = file.schema_arrow
    names, kinds = schema.names, {field.name: kind for field in schema if (kind := _modality(field.type))}
    column = _only([name for name in kinds if name != id_column], path) if column is None else _known(column, names)
    if column not in kinds:
        kind = schema.field(column).type
        raise BadArrayError(
            f"{path}: column {column!r} holds {kind}; expected encoded images, text, or lists of numbers or of texts."
        )
    ids = _ids(file, path, _known(id_column, names)) if id_column else tuple(map(str, range(file.metadata.num_rows)))
    if kinds[column] == _TEXTS:
        places = _places(file, path, column)
        each = _Column(file, path, column, "text")
        numbered = tuple(f"{ids[row]}{MARK}{number}" for row, number in places)
        return Source(path.stem, "text", numbered, lambda i: each.get(*places[i]))
    return Source(path.stem, kinds[column], ids, _Column(file, path, column, kinds[column]).get)


class _Column:
    def __init__(self, file: "pyarrow.parquet.ParquetFile", path: Path, column: str, modality: str):
        self._file, self._path, self._column, self._modality = file, path, column, modality
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._held: tuple[int, Any] = (-1, None)

    def get(self, row: int, number: int | None = None) -> Any:
        """The value of a row; where that is a list of texts, the one of this number."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._held[0] != group:
            self._held = (group, _read(self._file, self._path, self._column, group))
        value = self._held[1][row - int(self._starts[group])].as_py()
        where = f"{self._path}, column {self._column!r}, row {row}"
        value = value.get("bytes") if isinstance(value, dict) else value if number is None else value[number]
        if value is None or (self._modality == "text" and not value.strip()):
            raise BadArrayError(
                f"{where} is empty; expected an example in every row. Skip bad examples to leave it out."
            )
        if self._modality == "image":
            return decode_image(value, where)
        return np.asarray(value, np.float32) if self._modality == "array" else value


def _places(file: "pyarrow.parquet.ParquetFile", path: Path, column: str) -> list[tuple[int, int]]:
    """(row, number in its list) of every text; a row without any has none."""
    from pyarrow import compute

    places, row = [], 0
    for group in range(file.num_row_groups):
        for count in compute.call_function("list_value_length", [_read(file, path, column, group)]).to_pylist():
            places += [(row, number) for number in range(count or 0)]
            row += 1
    if not places:
        raise BadArrayError(f"{path}: column {column!r} holds no text in any row.")
    return places


def _read(file: "pyarrow.parquet.ParquetFile", path: Path, column: str, group: int) -> Any:
    import pyarrow

    try:
        return file.read_row_group(group, columns=[column]).column(column)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CorruptFileError(path, f"row group {group} of column {column!r} cannot be read ({error}).") from error


def _ids(file: "pyarrow.parquet.ParquetFile", path: Path, id_column: str) -> tuple[str, ...]:
    ids: list[str] = []
    for group in range(file.num_row_groups):
        values = _read(file, path, id_column, group).to_pylist()
        for value in values:
            if not isinstance(value, str | int) or value == "":
                raise BadArrayError(
                    f"{path}: id column {id_column!r} holds {value!r} at row {len(ids)}; expected text or integers."
                )
            ids.append(str(value))
    return tuple(ids)


def _modality(kind: "pyarrow.DataType") -> str | None:
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind):
        return "image"
    if types.is_struct(kind):
        return "image" if "bytes" in {kind.field(i).name for i in range(kind.num_fields)} else None
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    if types.is_string(kind.value_type) or types.is_large_string(kind.value_type):
        return _TEXTS
    return "array" if types.is_floating(kind.value_type) or types.is_integer(kind.value_type) else None


def _only(candidates: list[str], path: Path) -> str:
    if len(candidates) == 1:
        return candidates[0]
    listed = f"columns {', '.join(candidates)} all could hold examples" if candidates else "no column can hold examples"
    raise UnknownNameError(f"{path}: {listed}. Say which column to read: column=... (--column).")


def _known(column: str, names: list[str]) -> str:
    if column not in names:
        raise UnknownNameError.of("column", column, names)
    return column
