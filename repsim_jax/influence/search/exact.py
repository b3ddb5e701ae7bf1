"""Which rows of a store on disk are the most extreme? All are looked at, block by block, in bounded memory."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.durable import lock_folder, replace_file, sync_folder, write_file
from repsim_jax.errors import BadArrayError, CorruptFileError, StoreMismatchError
from repsim_jax.influence.search.index import Ends, Found, checked_queries, checked_rows
from repsim_jax.linalg import largest, precise_jit

_MANIFEST = "index.json"
_FORMAT = 1
# Products of queries and rows, or numbers in rows, that are held at once.
_BLOCK_ELEMENTS = 2**24
# Rows that are read at once, at least.
_FEWEST_ROWS = 128


class Exact:
    """Rows in a folder, and an exact search among them.

    Rows are kept in files of one ``add`` each, never changed afterwards. A manifest names those that are complete, and
    is replaced in one step: a process that is killed while it adds leaves the store as it was before, and the same call
    again adds the rows once. A file is checked against its hash before it is first read.

    Attributes:
        folder: Where the store is.
        dtype: Of the stored rows, float32 or float16.
        about: What the rows are, as told when the store was begun.
    """

    def __init__(self, folder: str | os.PathLike[str], *, dtype: str = "float32", about: str | None = None):
        """Opens a store, or begins one where there is none.

        Args:
            folder: Made if it does not exist.
            dtype: "float32", or "float16" for half the room; products are float32 in either case.
            about: What the rows are, such as a fingerprint of the model; a store of something else is refused. None
                opens any.

        Raises:
            BadArrayError: If the dtype is another one.
            StoreMismatchError: If the store holds another dtype, or rows of something else.
            CorruptFileError: If the manifest cannot be read.
        """
        if dtype not in ("float32", "float16"):
            raise BadArrayError(f"a store of rows is float32 or float16, got {dtype!r}.")
        self.folder = Path(folder)
        self.dtype = dtype
        self.about = about
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shards: list[dict[str, Any]] = []
        self._checked: set[str] = set()
        self._read_manifest()

    def _read_manifest(self) -> None:
        path = self.folder / _MANIFEST
        if not path.exists():
            return
        try:
            told = json.loads(path.read_bytes())
            dtype, about, shards = told["dtype"], told["about"], told["shards"]
            known = told["format"] == _FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(path, f"is no manifest of stored rows ({error}). Store them anew.") from error
        if not known or dtype != self.dtype:
            reason = f"holds {dtype} rows in format {told['format']}; {self.dtype} in format {_FORMAT} was asked for."
            raise StoreMismatchError(path, reason)
        if self.about not in (None, about):
            reason = (
                f"holds rows of {about!r}, not of {self.about!r}: another model, or other data. Name another folder."
            )
            raise StoreMismatchError(path, reason)
        self.about, self._shards = about, shards

    def __len__(self) -> int:
        return sum(shard["rows"] for shard in self._shards)

    @property
    def width(self) -> int | None:
        """Numbers in a row; None before the first ``add``."""
        return self._shards[0]["width"] if self._shards else None

    def add(self, rows: Any, ids: Any) -> None:
        """Appends rows; they are on the disk when this returns.

        Args:
            rows: Finite (n, d), of the width of the store.
            ids: An integer >= 0 for each. Where one ``add`` stored exactly these rows and ids, nothing happens: the
                call was repeated after an interruption.

        Raises:
            BadArrayError: If shapes, numbers or ids are wrong, or an id is stored already.
            NoSpaceError: If there is no room; the store is as before.
        """
        rows, ids = checked_rows(rows, ids, self.width)
        with np.errstate(over="ignore"):
            stored = rows.astype(self.dtype)
        if not np.isfinite(stored).all():
            raise BadArrayError(f"rows up to {np.abs(rows).max():.1e} do not fit {self.dtype}; store float32.")
        lock = lock_folder(self.folder)
        try:
            self._read_manifest()
            data = {"values": _npy(stored), "ids": _npy(ids)}
            digests = {name: hashlib.sha256(one).hexdigest() for name, one in data.items()}
            if any(shard["sha256"] == digests for shard in self._shards):
                return
            taken = np.intersect1d(ids, self.ids())
            if taken.size:
                raise BadArrayError(f"{taken.size} of the ids are stored already, the first is {taken[0]}.")
            self._append(data, {"rows": len(rows), "width": rows.shape[1], "sha256": digests})
        finally:
            os.close(lock)

    def _append(self, data: dict[str, bytes], shard: dict[str, Any]) -> None:
        name = f"{len(self._shards):06d}"
        for part, one in data.items():
            write_file(self.folder / f"{name}.{part}.npy", one)
        sync_folder(self.folder)  # the files must outlive a crash before the manifest may name them
        shards = [*self._shards, {"name": name, **shard}]
        told = {"format": _FORMAT, "dtype": self.dtype, "about": self.about, "shards": shards}
        replace_file(self.folder / _MANIFEST, json.dumps(told, indent=1).encode())
        self._shards = shards

    def ids(self) -> np.ndarray:
        """What is stored.

        Returns:
            (n,) ids, in the order of the rows.

        Raises:
            CorruptFileError: If a file is not what was written.
        """
        parts = [np.load(self._file(shard, "ids"), mmap_mode="r") for shard in self._shards]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _file(self, shard: dict[str, Any], part: str) -> Path:
        """The path of a file whose bytes are those that were written."""
        path = self.folder / f"{shard['name']}.{part}.npy"
        if path.name not in self._checked:
            try:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise CorruptFileError(path, f"cannot be read ({error.strerror}). Store the rows anew.") from error
            if digest != shard["sha256"][part]:
                raise CorruptFileError(path, "is not what was written: its sha256 differs. Store the rows anew.")
            self._checked.add(path.name)
        return path

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Reads the store from one end to the other.

        Args:
            size: Rows at a time, at most.

        Yields:
            Rows as stored, and their ids.

        Raises:
            CorruptFileError: If a file is not what was written.
        """
        for shard in self._shards:
            rows = np.load(self._file(shard, "values"), mmap_mode="r")
            ids = np.load(self._file(shard, "ids"), mmap_mode="r")
            for start in range(0, len(rows), size):
                yield np.asarray(rows[start : start + size]), np.asarray(ids[start : start + size])

    def search(self, queries: Any, *, k: int) -> Found:
        """Rows of the largest inner products, among all.

        Args:
            queries: (m, d).
            k: How many, in [1, n].

        Returns:
            Values and ids.

        Raises:
            BadArrayError: If queries have another width, are not finite, or k is out of range.
            CorruptFileError: If a file is not what was written.
        """
        return self._scan(queries, k, signs=(1,))[0]

    def ends(self, queries: Any, *, k: int) -> Ends:
        """Rows of the largest, and of the smallest, inner products, in one pass.

        Args:
            queries: (m, d).
            k: How many at each end, in [1, n].

        Returns:
            Both.

        Raises:
            BadArrayError: As ``search``.
            CorruptFileError: As ``search``.
        """
        largest, smallest = self._scan(queries, k, signs=(1, -1))
        return Ends(largest, Found(-smallest.values, smallest.ids))

    def _scan(self, queries: Any, k: int, signs: tuple[int, ...]) -> list[Found]:
        queries = checked_queries(queries, k, len(self), self.width or 0)
        widest = max(len(queries), queries.shape[1])  # neither products nor rows may fill the memory
        size = max(k, _BLOCK_ELEMENTS // widest, _FEWEST_ROWS)
        best = [_nothing(len(queries), k) for _ in signs]
        ids = [np.full((len(queries), k), -1, np.int64) for _ in signs]
        on_device = jnp.asarray(queries)
        for rows, numbers in self.blocks(size):
            # padded to one shape, so that a store of many small files compiles once
            padded = np.zeros((size, rows.shape[1]), rows.dtype)
            padded[: len(rows)] = rows
            best, places = _merged(on_device, jnp.asarray(padded), len(rows), best, k=k, signs=signs)
            ids = [_taken(np.asarray(place), kept, numbers) for place, kept in zip(places, ids, strict=True)]
        return [Found(np.asarray(values), kept) for values, kept in zip(best, ids, strict=True)]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _nothing(m: int, k: int) -> jax.Array:
    return jnp.full((m, k), -jnp.inf, jnp.float32)


def _taken(places: np.ndarray, kept: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Ids of what a merge took: the first k places are those that were kept before."""
    k = kept.shape[1]
    old = np.take_along_axis(kept, np.minimum(places, k - 1), axis=1)
    return np.where(places < k, old, numbers[np.clip(places - k, 0, len(numbers) - 1)])


@precise_jit(static_argnames=("k", "signs"))
def _merged(
    queries: Float[Array, "m d"], rows: Float[Array, "s d"], count: Any, best: list[Float[Array, "m k"]],
    *, k: int, signs: tuple[int, ...],
) -> tuple[list[Float[Array, "m k"]], list[Any]]:  # fmt: skip
    """The best of what was kept and one block of rows, and where they stood."""
    values = queries @ rows.astype(queries.dtype).T
    absent = jnp.arange(rows.shape[0]) >= count
    merged, places = [], []
    for sign, kept in zip(signs, best, strict=True):
        fresh, where = largest(jnp.where(absent, -jnp.inf, sign * values), k=k)
        both = jnp.concatenate([kept, fresh], axis=1)
        numbers = jnp.concatenate([jnp.broadcast_to(jnp.arange(k), kept.shape), k + where], axis=1)
        taken, order = jax.lax.top_k(both, k)
        merged.append(taken)
        places.append(jnp.take_along_axis(numbers, order, axis=1))
    return merged, places
