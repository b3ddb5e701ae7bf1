"""Parquet tables of embeddings: a column of lists per layer, or a column of numbers per feature.

Source: https://parquet.apache.org/docs/file-format/ (read by pyarrow).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.activations.contents import Contents, ids_from_values
from repsim_jax.activations.numpy_files import FREE_EXPANSION
from repsim_jax.errors import BadArrayError, MissingPackageError, UnsafeFileError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

ID_COLUMNS = ("id", "ids")
# Dictionary and run-length coding store a repeated number in less than a bit; real embeddings hardly repeat any.
MAX_EXPANSION = 1000
_ROWS_AT_ONCE = 1024


def read_parquet(data: bytes, path: Path) -> Contents:
    """Reads a Parquet file.

    Where there are columns of lists of numbers, these are the layers, and other columns (labels, text) are left
    alone. Else every column but the id must be floating-point, and all together are one layer.

    Args:
        data: The file's bytes.
        path: Where they came from; its stem names a layer made of number columns.

    Returns:
        Layers, and the column ``id`` or ``ids`` as ids.

    Raises:
        MissingPackageError: If pyarrow is not installed.
        UnsafeFileError: If it expands more than ``MAX_EXPANSION`` times.
        BadArrayError: If a column has gaps, lists of different lengths, or is not numbers.
        ValueError: If it is not a whole Parquet file; also OSError, as pyarrow raises.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError.of("pyarrow", "to read Parquet files", "table") from error
    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), page_checksum_verification=True)
    schema = file.schema_arrow
    lists = [field.name for field in schema if _is_list_of_numbers(field.type)]
    id_column = next((name for name in ID_COLUMNS if name in schema.names and name not in lists), None)
    names = lists or [name for name in schema.names if name != id_column]
    if len(set(schema.names)) != len(schema.names):
        raise BadArrayError("columns must have unique names: two have the same.")
    table = _read_table(file, [*names, *([id_column] if id_column else [])], len(data), path)
    table.validate(full=True)
    columns = {name: _column(name, table.column(name)) for name in names}
    ids = ids_from_values(table.column(id_column).to_pylist()) if id_column else None
    return Contents(columns if lists or not columns else {path.stem: np.stack(list(columns.values()), axis=1)}, ids)


def _read_table(file: "pyarrow.parquet.ParquetFile", names: list[str], num_bytes: int, path: Path) -> "pyarrow.Table":
    """Reads some rows at a time, so that a file that expands without end is stopped early.

    The sizes that a damaged file claims for its columns are left alone: asking pyarrow 26 for them (``RowGroupMetaData.
    column``) ends the process by a C++ exception that nobody catches.
    """
    import pyarrow

    limit, batches, total = max(FREE_EXPANSION, MAX_EXPANSION * num_bytes), [], 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False):
        batches.append(batch)
        total += batch.nbytes
        if total > limit:
            reason = f"expands from {num_bytes} to more than {limit} bytes, and is refused."
            raise UnsafeFileError(path, f"{reason} If it is yours, save the array with numpy.save.")
    if sum(map(len, batches)) != file.metadata.num_rows:
        raise ValueError(f"{sum(map(len, batches))} rows are there, its footer promises {file.metadata.num_rows}")
    return pyarrow.Table.from_batches(batches) if batches else file.schema_arrow.empty_table().select(names)


def _is_list_of_numbers(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))


def _column(name: str, column: "pyarrow.ChunkedArray") -> np.ndarray:
    from pyarrow import types

    is_list = _is_list_of_numbers(column.type)
    if not is_list and not types.is_floating(column.type):
        advice = f"Cast it to float, drop it, or call it {ID_COLUMNS[0]!r} if it holds the ids."
        raise BadArrayError(
            f"column {name!r} must hold floating-point numbers or lists of numbers: got {column.type}. {advice}"
        )
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise BadArrayError(f"column {name!r} must have a value in every row: row {row} has none. Drop the row.")
    if not is_list:
        return column.to_numpy()
    pieces = [_matrix(name, piece) for piece in column.chunks if len(piece)]
    if len({piece.shape[1] for piece in pieces}) > 1:
        raise BadArrayError(
            f"column {name!r} must have lists of one length: got {sorted({p.shape[1] for p in pieces})}."
        )
    return np.concatenate(pieces) if pieces else np.empty((0, 0), np.float32)


def _matrix(name: str, piece: Any) -> np.ndarray:
    flat = piece.flatten()
    if flat.null_count:
        raise BadArrayError(f"column {name!r} must have a number at every place of its lists: got an empty place.")
    lengths = np.unique(piece.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise BadArrayError(
            f"column {name!r} must have lists of one length: got {lengths.min()} to {lengths.max()} numbers."
        )
    return flat.to_numpy(zero_copy_only=False).reshape(len(piece), int(lengths[0]))
