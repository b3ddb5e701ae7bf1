"""How do layers of a data set larger than memory reach the disk, so that a run killed at any moment can go on?

Rows are gathered into blocks of ``chunk_rows``. A whole block is written as one chunk file per layer and then committed
by one line of the journal; the manifest, written last and in one step, makes the folder a store that can be opened.
"""

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import repsim_jax
from repsim_jax.activations.chunks import ARRAY_FILE, DTYPES, array_description, chunk_file, encode
from repsim_jax.activations.incoming import cast, checked_ids, checked_layers
from repsim_jax.activations.journal import JOURNAL_FILE, Journal, Progress
from repsim_jax.activations.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_FILE,
    FileSum,
    LayerRecord,
    Manifest,
    layer_folder,
)
from repsim_jax.activations.reader import Store, open_store
from repsim_jax.activations.resume import begin_or_resume, sweep
from repsim_jax.durable import lock_folder, replace_file, sync_folder, write_file, writing
from repsim_jax.errors import BadArrayError, RepsimError, StoreMismatchError


class StoreWriter:
    """Writes a store, or goes on with one whose writer was stopped.

    Use it as a context: leaving without ``finish`` keeps the committed rows for the next run.

    Args:
        path: Folder of the store; created where it is missing.
        dtype: "float32", "float16" or "bfloat16".
        chunk_rows: Rows that are committed together; the writer holds this many rows of every layer in memory.
        metadata: What a reader must know (model, layers' layout, data); JSON-serializable. To go on with
            a store, it must be what the first run said.

    Attributes:
        path: The folder.
        num_committed: Rows that are safe on the disk.

    Raises:
        StoreMismatchError: If the folder holds something else, a finished store, a store begun with other settings, or
            another writer is at work on it.
        CorruptFileError: If the store was begun and its journal or a committed file is damaged.
        NoSpaceError: If there is no room to begin.
        RepsimError: If ``dtype``, ``chunk_rows`` or ``metadata`` cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        chunk_rows: int = 256,
        metadata: Mapping[str, Any] | None = None,
    ):
        header = _header(dtype, chunk_rows, metadata or {})
        self.path = Path(path)
        self._dtype = DTYPES[dtype]
        self._chunk_rows = chunk_rows
        with writing(self.path):
            self._made_folder = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            sync_folder(self.path.parent)
        self._lock: int | None = lock_folder(self.path)
        try:
            self._journal = Journal(self.path / JOURNAL_FILE, begin_or_resume(self.path, header))
        except BaseException:
            self._release()
            self._remove_made_folder()
            raise
        self._state = "open"
        self._resumed = self.num_committed > 0
        self._seen = set(self._progress.ids)
        self._waiting: list[str] = []
        self._buffers: dict[str, np.ndarray] = {}
        try:
            self._make_buffers()
        except BaseException:
            self.close()
            raise

    @property
    def num_committed(self) -> int:
        """Rows that are safe on the disk, of this run and those before it."""
        return len(self._progress.ids)

    @property
    def committed_ids(self) -> tuple[str, ...]:
        """Ids of the committed rows, in row order."""
        return tuple(self._progress.ids)

    def append(self, ids: Iterable[str], layers: Mapping[str, Any]) -> None:
        """Takes b more examples. The first call fixes the layers, their order and their widths.

        Nothing of a refused batch is kept. Rows are committed when a block is full, so up to ``chunk_rows - 1`` of them
        wait in memory.

        Args:
            ids: b unique, non-empty strings.
            layers: Layer name to (b, d) array of finite floating-point numbers.

        Raises:
            BadArrayError: If ids or arrays cannot be stored; the message names layer, row and id.
            StoreMismatchError: If the store was begun with other layers or widths.
            NoSpaceError: If the disk is full: close the writer, free some space and go on with a new one.
        """
        self._check_open()
        names = checked_ids(ids, self._seen)
        arrays = checked_layers(layers, len(names))
        self._check_same_layers(arrays)
        first = self.num_committed + len(self._waiting)
        for start in range(0, len(names), self._chunk_rows):
            rows = slice(start, start + self._chunk_rows)
            for layer, array in arrays.items():
                cast(layer, array[rows], self._dtype, names[rows], first + start)
        if names:
            self._take(names, arrays)

    def finish(self) -> Store:
        """Writes the last rows and the manifest; from then on the store can be opened, and nothing can be added.

        Returns:
            The finished store.

        Raises:
            BadArrayError: If no row was ever appended.
            NoSpaceError: If the disk is full.
        """
        self._check_open()
        if not self.num_committed and not self._waiting:
            raise BadArrayError(
                f"{self.path}: a store needs at least one example: got none. Append rows before finish()."
            )
        self._state = "broken"
        blocks = list(self._progress.blocks)
        if self._waiting:
            blocks.append(self._write_block(len(blocks)))
        manifest = self._manifest(blocks)
        replace_file(self.path / MANIFEST_FILE, manifest.to_bytes())
        with writing(self.path):
            (self.path / JOURNAL_FILE).unlink()
        sync_folder(self.path)
        self._state = "finished"
        self.close()
        return open_store(self.path)

    def close(self) -> None:
        """Stops writing and lets the next writer in. Of a store without any committed row nothing is left behind."""
        if self._lock is None:
            return
        self._journal.close()
        if not self.num_committed and not (self.path / MANIFEST_FILE).exists():
            with contextlib.suppress(OSError):  # cleaning up must not hide the error that brought us here
                sweep(self.path, self._progress)
                (self.path / JOURNAL_FILE).unlink()
            self._remove_made_folder()
        self._release()
        self._state = "finished" if self._state == "finished" else "closed"

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _progress(self) -> Progress:
        return self._journal.progress

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_made_folder(self) -> None:
        if self._made_folder:
            with contextlib.suppress(OSError):  # not empty: it holds something worth keeping
                self.path.rmdir()

    def _check_open(self) -> None:
        if self._state != "open":
            reason = {"broken": "stopped by an earlier error"}.get(self._state, self._state)
            raise RepsimError(f"{self.path}: this writer is {reason}. Make a new StoreWriter to go on.")

    def _check_same_layers(self, arrays: Mapping[str, np.ndarray]) -> None:
        wanted, got = self._progress.widths, {name: array.shape[1] for name, array in arrays.items()}
        if not wanted or wanted == got:
            return
        differences = [
            *(f"layer {name!r} is missing" for name in wanted if name not in got),
            *(f"layer {name!r} is new" for name in got if name not in wanted),
            *(f"layer {n!r} has width {got[n]}, not {wanted[n]}" for n in wanted if n in got and wanted[n] != got[n]),
        ]
        text = f"every batch must have the layers that the first one had: {'; '.join(differences[:5])}"
        if self._resumed:
            raise StoreMismatchError(self.path, f"{text}. It was begun by an earlier run: choose another folder.")
        raise BadArrayError(f"{text}. Pass the same layers, with the same widths, each time.")

    def _take(self, names: list[str], arrays: Mapping[str, np.ndarray]) -> None:
        self._state = "broken"
        if not self._progress.widths:
            widths = [[name, array.shape[1]] for name, array in arrays.items()]
            self._journal.add({"kind": "layers", "layers": widths})
            self._make_buffers()
        done = 0
        while done < len(names):
            filled = len(self._waiting)
            some = slice(done, done + self._chunk_rows - filled)
            taken = names[some]
            for layer, array in arrays.items():
                self._buffers[layer][filled : filled + len(taken)] = array[some].astype(self._dtype)
            self._waiting.extend(taken)
            self._seen.update(taken)
            done += len(taken)
            if len(self._waiting) == self._chunk_rows:
                self._commit()
        self._state = "open"

    def _make_buffers(self) -> None:
        widths = self._progress.widths
        self._buffers = {name: np.zeros((self._chunk_rows, width), self._dtype) for name, width in widths.items()}
        with writing(self.path):
            for index, name in enumerate(widths):
                (self.path / layer_folder(index, name)).mkdir(exist_ok=True)
            sync_folder(self.path)

    def _commit(self) -> None:
        sums = self._write_block(len(self._progress.blocks))
        self._journal.add({"kind": "rows", "start": self.num_committed, "ids": self._waiting, "chunks": sums})
        self._waiting = []

    def _write_block(self, index: int) -> tuple[FileSum, ...]:
        sums, written = [], []
        try:
            for position, (name, buffer) in enumerate(self._buffers.items()):
                written.append(self.path / layer_folder(position, name) / chunk_file(index))
                data = encode(buffer[: len(self._waiting)], self._chunk_rows)
                write_file(written[-1], data)
                sums.append(FileSum.of(data))
            for file in written:
                sync_folder(file.parent)
        except BaseException:
            for file in written:  # gives the room of an unfinished block back
                file.unlink(missing_ok=True)
            raise
        return tuple(sums)

    def _manifest(self, blocks: list[tuple[FileSum, ...]]) -> Manifest:
        ids = (*self._progress.ids, *self._waiting)
        records = []
        for position, (name, width) in enumerate(self._progress.widths.items()):
            folder = self.path / layer_folder(position, name)
            description = array_description(self._dtype, len(ids), self._chunk_rows, width)
            write_file(folder / ARRAY_FILE, description)
            sync_folder(folder)
            records.append(
                LayerRecord(name, width, FileSum.of(description), tuple(block[position] for block in blocks))
            )
        header = self._progress.header
        return Manifest(self._dtype.name, self._chunk_rows, ids, tuple(records), header["metadata"], dict(_versions()))


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "tensorstore")}
    return {"repsim_jax": repsim_jax.__version__} | packages


def _header(dtype: str, chunk_rows: int, metadata: Mapping[str, Any]) -> dict[str, Any]:
    if dtype not in DTYPES:
        raise RepsimError(f"a store holds {', '.join(DTYPES)}: got dtype {dtype!r}. Choose one of these.")
    if isinstance(chunk_rows, bool) or not isinstance(chunk_rows, int) or chunk_rows < 1:
        raise RepsimError(f"chunk_rows must be a positive integer: got {chunk_rows!r}.")
    try:
        plain = json.loads(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RepsimError(f"metadata must be JSON (text, finite numbers, lists, dicts): {error}.") from error
    header = {"kind": "store", "format": FORMAT, "version": FORMAT_VERSION, "dtype": dtype}
    return header | {"chunk_rows": chunk_rows, "metadata": plain}
