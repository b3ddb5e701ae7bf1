"""What does a finished store hold? Rows are read back only if their bytes are the ones that were written."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from repsim_jax.activations.chunks import ARRAY_FILE, DTYPES, chunk_file, decode
from repsim_jax.activations.journal import JOURNAL_FILE
from repsim_jax.activations.manifest import MANIFEST_FILE, FileSum, LayerRecord, Manifest, layer_folder
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, IncompleteStoreError, UnknownNameError

Rows = slice | np.ndarray | None
_REPAIR = "Restore the file from a copy, or delete the store and extract it again."


class Store:
    """A finished store of layers, read by slices; made by ``open_store`` or ``StoreWriter.finish``.

    Args:
        path: The folder.
        manifest: What it promises.

    Attributes:
        path: The folder.
        ids: One per example, in row order.
        layers: Names in depth order.
        dtype: Of the stored numbers.
        metadata: What the writer was told about model, layout and data.
        versions: Package versions that wrote the store.
    """

    def __init__(self, path: Path, manifest: Manifest):
        self.path = path
        self.ids = manifest.ids
        self.layers = tuple(layer.name for layer in manifest.layers)
        self.dtype = DTYPES[manifest.dtype]
        self.metadata: dict[str, Any] = manifest.metadata
        self.versions = manifest.versions
        self.chunk_rows = manifest.chunk_rows
        self._records = {layer.name: (index, layer) for index, layer in enumerate(manifest.layers)}

    @property
    def num_examples(self) -> int:
        """Rows n of every layer."""
        return len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Store({os.fspath(self.path)!r}, {len(self.layers)} layers, {len(self)} examples, {self.dtype.name})"

    def width(self, layer: str) -> int:
        """Features d of one layer.

        Args:
            layer: One of ``layers``.

        Returns:
            Its width.

        Raises:
            UnknownNameError: If there is no such layer.
        """
        return self._record(layer)[1].width

    def read(self, layer: str, rows: Rows = None) -> np.ndarray:
        """Rows of one layer; the sha256 of every chunk that is touched is checked first.

        Args:
            layer: One of ``layers``.
            rows: A slice, an integer array of row numbers, or None for all rows.

        Returns:
            (rows, d) of the store's dtype.

        Raises:
            UnknownNameError: If there is no such layer.
            BadArrayError: If ``rows`` asks for rows that do not exist.
            CorruptFileError: If a chunk is missing or not what was written.
        """
        return self._read(layer, self._row_numbers(rows), {})

    def blocks(
        self, rows: int | None = None, layers: Iterable[str] | None = None
    ) -> Iterator[tuple[tuple[str, ...], dict[str, np.ndarray]]]:
        """Walks through the store in order, holding one block of rows at a time.

        Args:
            rows: Rows of a block; a whole chunk where None. The last block may be smaller.
            layers: Names to read; all where None.

        Yields:
            ``(ids, {layer: (b, d) array})``.

        Raises:
            UnknownNameError: If a layer does not exist.
            BadArrayError: If ``rows`` is not positive.
            CorruptFileError: If a chunk is missing or not what was written.
        """
        names = self.layers if layers is None else tuple(layers)
        step = self.chunk_rows if rows is None else rows
        if step < 1:
            raise BadArrayError(f"blocks must have at least one row: got rows={rows}.")
        recent: dict[str, tuple[int, np.ndarray]] = {name: (-1, np.empty(0)) for name in names if self._record(name)}
        for start in range(0, len(self), step):
            numbers = np.arange(start, min(start + step, len(self)))
            yield self.ids[start : start + step], {name: self._read(name, numbers, recent) for name in names}

    def verify(self) -> None:
        """Reads every byte and compares it with the manifest.

        Raises:
            CorruptFileError: Names the first file that is missing or not what was written.
        """
        for file, total in self.files():
            _checked_bytes(file, total)

    def files(self) -> Iterator[tuple[Path, FileSum]]:
        """Every file of the store but the manifest, with the checksum and size that it should have.

        Yields:
            ``(path, sum)``, layer by layer.
        """
        for name in self.layers:
            _, record = self._record(name)
            yield self._folder(name) / ARRAY_FILE, record.description
            for index, total in enumerate(record.chunks):
                yield self._folder(name) / chunk_file(index), total

    def _record(self, layer: str) -> tuple[int, LayerRecord]:
        if layer not in self._records:
            raise UnknownNameError.of("layer", layer, self.layers)
        return self._records[layer]

    def _folder(self, layer: str) -> Path:
        return self.path / layer_folder(self._records[layer][0], layer)

    def _row_numbers(self, rows: Rows) -> np.ndarray:
        if rows is None or isinstance(rows, slice):
            return np.arange(len(self))[rows or slice(None)]
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise BadArrayError(
                f"rows must be a slice or a 1-D array of row numbers: got {numbers.dtype} {numbers.shape}."
            )
        if numbers.size and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise BadArrayError(f"rows must lie in [0, {len(self)}): got {numbers.min()} to {numbers.max()}.")
        return numbers.astype(np.int64) % len(self)

    def _read(self, layer: str, numbers: np.ndarray, recent: dict[str, tuple[int, np.ndarray]]) -> np.ndarray:
        """Gathers rows chunk by chunk; ``recent`` keeps a layer's last chunk, so that small blocks decode it once."""
        _, record = self._record(layer)
        out = np.empty((len(numbers), record.width), self.dtype)
        chunk_of = numbers // self.chunk_rows
        order = np.argsort(chunk_of, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(chunk_of[order])) + 1) if len(order) else ():
            index = int(chunk_of[places[0]])
            if recent.get(layer, (-1, None))[0] != index:
                recent[layer] = (index, self._chunk(layer, index))
            out[places] = recent[layer][1][numbers[places] - index * self.chunk_rows]
        return out

    def _chunk(self, layer: str, index: int) -> np.ndarray:
        _, record = self._record(layer)
        path = self._folder(layer) / chunk_file(index)
        data = _checked_bytes(path, record.chunks[index])
        try:
            return decode(data, self.dtype, self.chunk_rows, record.width)
        except ValueError as error:
            raise CorruptFileError(path, f"cannot be decoded ({error}). {_REPAIR}") from error


def open_store(path: str | os.PathLike[str]) -> Store:
    """Opens a finished store, checking its manifest and that every file is there with the right size.

    Args:
        path: The folder.

    Returns:
        The store; its rows are still on disk.

    Raises:
        FileError: If there is nothing at ``path``.
        IncompleteStoreError: If the store is still being written, or its writer was stopped.
        CorruptFileError: If the folder is no store, or a file is missing, resized or damaged.
    """
    folder = Path(path)
    if not (folder / MANIFEST_FILE).is_file():
        if not folder.exists():
            raise FileError(folder, "does not exist. Give the folder of a store that repsim extract wrote.")
        if (folder / JOURNAL_FILE).is_file():
            reason = "this store is still being written, or its writer was stopped: it has a journal but no manifest."
            raise IncompleteStoreError(folder, f"{reason} Run the same extraction again: it resumes where it stopped.")
        reason = "is not a store: it has no manifest.json. Give a folder that repsim extract wrote, whole."
        raise CorruptFileError(folder, reason)
    store = Store(folder, Manifest.from_file(folder / MANIFEST_FILE))
    for file, total in store.files():
        check_size(file, total)
    return store


def memory_needed(store: Store, layers: Iterable[str] | None = None, *, limit: int | None = None) -> int:
    """Bytes that whole layers take in memory once they are float32.

    ``4 * n * sum(d)`` over the layers.

    Args:
        store: An open store.
        layers: Names; all where None.
        limit: Bytes that may be used; no limit where None.

    Returns:
        The number of bytes.

    Raises:
        UnknownNameError: If a layer does not exist.
        BadArrayError: If more than ``limit`` would be needed; the message tells both.
    """
    names = store.layers if layers is None else tuple(layers)
    needed = 4 * len(store) * sum(store.width(name) for name in names)
    if limit is not None and needed > limit:
        sizes = f"need {needed / 2**30:.2f} GiB as float32, {limit / 2**30:.2f} GiB may be used"
        text = f"{len(names)} layers of {len(store)} examples {sizes}."
        raise BadArrayError(f"{text} Compare fewer layers or fewer rows, or read it in Store.blocks.")
    return needed


def check_size(path: Path, total: FileSum) -> None:
    """Checks that a file is there and has the size that it should have.

    Args:
        path: The file.
        total: Its recorded sum.

    Raises:
        CorruptFileError: If it is missing, unreadable or has another size.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CorruptFileError(path, f"is missing or cannot be read ({error.strerror}). {_REPAIR}") from error
    if size != total.size:
        raise CorruptFileError(path, f"should have {total.size} bytes, has {size}. {_REPAIR}")


def _checked_bytes(path: Path, total: FileSum) -> bytes:
    check_size(path, total)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(path, f"cannot be read ({error.strerror}). {_REPAIR}") from error
    if FileSum.of(data) != total:
        raise CorruptFileError(path, f"its bytes changed since they were written (sha256 differs). {_REPAIR}")
    return data
