"""Where do the examples come from? A named data set, a folder or a file; each example has an id, and is read lazily."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from repsim_jax.data import arrays
from repsim_jax.data.images import image_files, open_image
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, MissingPackageError, UnknownNameError

_KINDS = 'expected "digits", a folder of images, or a .parquet, .txt, .npy, .npz or .safetensors file'


@dataclass(frozen=True, eq=False)
class Source:
    """Examples that are read one by one, so that a data set may be larger than memory and resuming is cheap.

    Attributes:
        name: What to call the data in tables.
        modality: "image" (PIL images or uint8 (h, w, 3) arrays), "text" (str) or "array".
        ids: One per example, unique.
        get: ``get(i)`` reads example i as it is, before any preparation.
        labels: A class per example where the source knows one; else None.
        skipped: {id: reason} of examples that could not be read and were left out.
    """

    name: str
    modality: str
    ids: tuple[str, ...]
    get: Callable[[int], Any]
    labels: np.ndarray | None = None
    skipped: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def open_source(
    spec: str | os.PathLike[str],
    *,
    column: str | None = None,
    id_column: str | None = None,
    limit: int | None = None,
    on_bad: str = "raise",
) -> Source:
    """Opens a data set; nothing is decoded yet.

    * "digits": scikit-learn's 1,797 real handwritten digits, float32 (64,) in [0, 1], with labels.
    * a folder: every .png, .jpg, .jpeg, .webp and .bmp in it and below; ids are relative paths, sorted.
    * FILE.parquet: ``column`` holds encoded images (bytes, or Hugging Face's {"bytes": ...}), text, or lists of texts
      (captions), each of which is an example with id "ID#0", "ID#1", ...
    * FILE.txt: one sentence a line, UTF-8; ids are line numbers from 1.
    * FILE.npy, .npz, .safetensors: an array (n, ...), its rows are the examples; uint8 (n, h, w, 3) are images.

    Args:
        spec: One of these.
        column: Which column, or which array of a file that holds several; where there is one candidate it is taken.
        id_column: The column of ids; row numbers from 0 where None and the file has no ids of its own.
        limit: Only the first so many examples.
        on_bad: "raise" stops at the first example that cannot be read; "skip" tries all of them now and leaves the
            broken ones out.

    Returns:
        The source.

    Raises:
        UnknownNameError: If there is no such column, array or ``on_bad``.
        BadArrayError: If ids repeat or are missing, the limit is not positive, or nothing is left.
        FileError: If the file or folder does not exist, is empty, damaged, or of a kind that is not read.
        MissingPackageError: If scikit-learn, Pillow or pyarrow is needed and not installed.
    """
    if on_bad not in ("raise", "skip"):
        raise UnknownNameError.of("way to treat bad examples", on_bad, ("raise", "skip"))
    if limit is not None and limit < 1:
        raise BadArrayError(f"limit must be at least 1 example, got {limit}.")
    source = _limited(_open(spec, column, id_column), limit)
    repeated = len(source.ids) - len(set(source.ids))
    if repeated:
        seen: set[str] = set()
        first = next(one for one in source.ids if one in seen or seen.add(one))
        raise BadArrayError(f"ids must be unique: {first!r} comes again in {source.name}. Choose another id column.")
    return _without_bad(source) if on_bad == "skip" else source


def bad_examples(source: Source) -> dict[str, str]:
    """Reads every example once to find those that cannot be read.

    Args:
        source: Any source.

    Returns:
        {id: reason} of the bad ones.
    """
    bad = {}
    for row, one in enumerate(source.ids):
        try:
            source.get(row)
        except (FileError, BadArrayError) as error:
            bad[one] = str(error)
    return bad


def _without_bad(source: Source) -> Source:
    bad = bad_examples(source)
    if len(bad) == len(source):
        first = next(iter(bad.values()))
        raise BadArrayError(f"none of the {len(source)} examples of {source.name} can be read. The first: {first}")
    rows = np.array([row for row, one in enumerate(source.ids) if one not in bad])
    return replace(_chosen(source, rows), skipped=bad)


def _chosen(source: Source, rows: np.ndarray) -> Source:
    ids = tuple(source.ids[row] for row in rows)
    labels = None if source.labels is None else source.labels[rows]
    return replace(source, ids=ids, get=lambda i: source.get(int(rows[i])), labels=labels)


def _limited(source: Source, limit: int | None) -> Source:
    return source if limit is None or limit >= len(source) else _chosen(source, np.arange(limit))


def _open(spec: str | os.PathLike[str], column: str | None, id_column: str | None) -> Source:
    path = Path(spec)
    suffix = path.suffix.lower()
    if path.is_file() and suffix == ".parquet":
        from repsim_jax.data.tables import parquet_source

        return parquet_source(path, column, id_column)
    if path.is_file() and suffix in arrays.SUFFIXES:
        return _array_source(path, column, id_column)
    for name, value in (("column", column), ("id column", id_column)):
        if value is not None:
            raise UnknownNameError(
                f"{os.fspath(spec)} has no columns, so {name} {value!r} does not exist. Leave it out."
            )
    if os.fspath(spec) == "digits":
        return _digits()
    if path.is_dir():
        return _folder_source(path)
    if path.is_file() and suffix == ".txt":
        return _text_source(path)
    raise FileError(path, f"{'no such file' if not path.exists() else 'not a kind of data that is read'}; {_KINDS}.")


def _digits() -> Source:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError.of("scikit-learn", "for the digits data", "digits") from error
    data: Any = load_digits()
    pixels = np.asarray(data["data"], np.float32) / 16  # load_digits counts ink from 0 to 16
    ids = tuple(f"digit_{row:04d}" for row in range(len(pixels)))
    return Source("digits", "array", ids, pixels.__getitem__, np.asarray(data["target"]))


def _folder_source(folder: Path) -> Source:
    ids = image_files(folder)
    if not ids:
        raise FileError(folder, "holds no images; expected .png, .jpg, .jpeg, .webp or .bmp files in it or below.")
    return Source(folder.resolve().name, "image", ids, lambda i: open_image(folder / ids[i]))


def _text_source(path: Path) -> Source:
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise CorruptFileError(
            path, f"is not UTF-8 text ({error.reason} at byte {error.start}). Convert it."
        ) from error
    if lines == [""]:
        raise FileError(path, "is empty; expected one sentence a line.")
    return Source(path.stem, "text", tuple(map(str, range(1, len(lines) + 1))), partial(_line, path, lines))


def _line(path: Path, lines: Sequence[str], row: int) -> str:
    if not lines[row].strip():
        raise BadArrayError(
            f"{path}: line {row + 1} is blank; expected a sentence. Remove it, or skip bad examples (--skip-bad)."
        )
    return lines[row]


def _array_source(path: Path, column: str | None, id_column: str | None) -> Source:
    if id_column is not None:
        raise UnknownNameError(f'{path}: ids come from the array "ids" of the file itself; leave the id column out.')
    found = arrays.array_examples(path, column)
    is_image = found.dtype == np.uint8 and len(found.shape) == 4 and found.shape[-1] == 3
    ids = found.ids or tuple(map(str, range(found.shape[0])))
    return Source(path.stem, "image" if is_image else "array", ids, found.get)
