"""How do columns of numbers and names become CSV and Parquet, the same bytes each time?"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repsim_jax.durable import replace_file, writing
from repsim_jax.errors import CorruptFileError, FileError
from repsim_jax.report.text import csv_cell


def columns_to_csv(columns: Mapping[str, np.ndarray]) -> bytes:
    """Columns as CSV; numbers have as many digits as bring them back exactly.

    Args:
        columns: Arrays (n,) by name.

    Returns:
        UTF-8 text.
    """
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(map(csv_cell, columns))
    table.writerows(zip(*(_cells(column) for column in columns.values()), strict=True))
    return written.getvalue().encode()


def _cells(column: np.ndarray) -> list[Any]:
    column = np.asarray(column)
    if column.dtype.kind == "f":
        return [repr(float(value)) if np.isfinite(value) else "" for value in column]
    return [csv_cell(value) if isinstance(value, str) else value for value in column.tolist()]


def columns_to_parquet(columns: Mapping[str, np.ndarray]) -> bytes | None:
    """Columns as Parquet.

    Args:
        columns: Arrays (n,) by name.

    Returns:
        The file's bytes; None where pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        return None
    arrays = {name: pyarrow.array(_plain(np.asarray(column))) for name, column in columns.items()}
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(arrays), buffer)
    return buffer.getvalue().to_pybytes()


def _plain(column: np.ndarray) -> list[Any]:
    """Numbers as they are; of text what no encoding has (halves of a pair, in the names of files) is replaced."""
    if column.dtype.kind != "U":
        return column.tolist()
    return [value.encode("utf-8", "replace").decode() for value in column.tolist()]


def write_columns(folder: str | os.PathLike[str], name: str, columns: Mapping[str, np.ndarray]) -> list[Path]:
    """Writes ``NAME.csv``, and ``NAME.parquet`` where pyarrow is installed, each in one step.

    Args:
        folder: Made where it does not exist.
        name: Of the files.
        columns: Arrays (n,) by name.

    Returns:
        What was written.

    Raises:
        NoSpaceError: If there is no room.
        FileError: If writing fails in another way.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    contents = {".csv": columns_to_csv(columns), ".parquet": columns_to_parquet(columns)}
    written = [folder / f"{name}{suffix}" for suffix, content in contents.items() if content is not None]
    for path in written:
        replace_file(path, contents[path.suffix] or b"")
    return written


def read_columns(path: str | os.PathLike[str], numbers: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Reads a CSV file of ours.

    Args:
        path: The file.
        numbers: Columns that hold numbers.

    Returns:
        Columns by name; strings, and floats where they are numbers.

    Raises:
        FileError: If there is no such file.
        CorruptFileError: If it is not what was written.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(path, "no such file. Give the command that writes it first.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        found = dict(zip(head, map(np.asarray, zip(*rows, strict=True)), strict=True)) if rows else {
            name: np.asarray([]) for name in head
        }  # fmt: skip
        for name in numbers:
            if name in found:
                found[name] = np.asarray([float(cell) if cell else np.nan for cell in found[name]])
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptFileError(path, f"is not the table that was written ({error}). Compute it again.") from error
    return found
