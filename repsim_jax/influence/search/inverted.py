"""Which of a hundred million rows are the most extreme, approximately? Faiss, behind the protocol of an index."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from repsim_jax.errors import BadArrayError, CorruptFileError, MissingPackageError
from repsim_jax.influence.search.exact import Exact
from repsim_jax.influence.search.index import Ends, Found, checked_queries, checked_rows

# Rows that are read from a store at once.
_BLOCK = 65_536
# Faiss warns below 39 training rows for each cell.
_ROWS_PER_CELL = 40


class Inverted:
    """An index of the faiss package by inner product: rows in cells, of which a few are searched.

    Attributes:
        kind: Faiss's name of it: "IVF4096,Flat" keeps rows as they are, "IVF4096,PQ32" 32 bytes of each, and "Flat"
            searches all.
    """

    def __init__(self, sample: Any, *, kind: str | None = None, probes: int | None = None):
        """Learns cells, and codes where there are any, from some rows; it holds none yet.

        Args:
            sample: (n, d) rows like those that will be added; 40 for each cell are enough.
            kind: What faiss's ``index_factory`` takes; None: "IVFc,Flat" of c = 4 sqrt(n) cells, n being the sample's.
            probes: Cells that are searched for a query; None: 1 of 16.

        Raises:
            BadArrayError: If the sample is not finite, or faiss refuses the kind.
            MissingPackageError: If faiss is not installed.
        """
        faiss = _faiss()
        sample, _ = checked_rows(sample, np.arange(len(sample)), None)
        cells = max(1, min(int(4 * np.sqrt(len(sample))), len(sample) // _ROWS_PER_CELL))
        self.kind = kind or f"IVF{cells},Flat"
        try:
            self._index: Any = faiss.index_factory(sample.shape[1], self.kind, faiss.METRIC_INNER_PRODUCT)
            self._index.train(np.ascontiguousarray(sample, np.float32))
        except RuntimeError as error:
            told = str(error).strip().splitlines()[-1]
            raise BadArrayError(f"faiss refuses {self.kind!r} for {sample.shape} rows: {told}") from error
        if "IVF" not in self.kind:
            self._index = faiss.IndexIDMap2(self._index)
        self.probes = probes

    @property
    def probes(self) -> int:
        """Cells that are searched for a query: more find more, and take longer."""
        return getattr(self._index, "nprobe", 1)

    @probes.setter
    def probes(self, value: int | None) -> None:
        """Sets it.

        Args:
            value: Cells; None: 1 of 16.
        """
        if hasattr(self._index, "nprobe"):
            self._index.nprobe = value or max(1, self._index.nlist // 16)

    @classmethod
    def of(
        cls, store: Exact, *, sample: int = 100_000, kind: str | None = None, probes: int | None = None
    ) -> "Inverted":
        """Indexes a store, in one pass over it after the cells are learned.

        Args:
            store: Rows on disk.
            sample: Rows from which cells are learned, evenly out of the store.
            kind: As for ``Inverted``.
            probes: As for ``Inverted``.

        Returns:
            An index of all its rows.

        Raises:
            BadArrayError: If the store is empty, or as ``Inverted``.
            MissingPackageError: If faiss is not installed.
        """
        if not len(store):
            raise BadArrayError(f"there are no rows in {store.folder}: add some.")
        step = max(1, len(store) // sample)
        first = [rows[::step] for rows, _ in store.blocks(step * max(1, _BLOCK // step))]
        made = cls(np.concatenate(first), kind=kind, probes=probes)
        for rows, ids in store.blocks(_BLOCK):
            made.add(rows, ids)
        return made

    def __len__(self) -> int:
        return self._index.ntotal

    def add(self, rows: Any, ids: Any) -> None:
        """Takes more rows in.

        Args:
            rows: Finite (n, d).
            ids: An integer >= 0 for each; that none is there already is not checked.

        Raises:
            BadArrayError: If shapes, numbers or ids are wrong.
        """
        rows, ids = checked_rows(rows, ids, self._index.d)
        self._index.add_with_ids(np.ascontiguousarray(rows, np.float32), ids)

    def search(self, queries: Any, *, k: int) -> Found:
        """Rows of the largest inner products among the cells that are searched.

        Args:
            queries: (m, d).
            k: How many, in [1, n].

        Returns:
            Values, of the codes where rows are kept as such, and ids; -1 where the cells held fewer rows.

        Raises:
            BadArrayError: If queries have another width, are not finite, or k is out of range.
        """
        queries = checked_queries(queries, k, len(self), self._index.d)
        return Found(*self._index.search(np.ascontiguousarray(queries), k))

    def ends(self, queries: Any, *, k: int) -> Ends:
        """Rows of the largest, and of the smallest, inner products, in two searches.

        Args:
            queries: (m, d).
            k: How many at each end, in [1, n].

        Returns:
            Both.

        Raises:
            BadArrayError: As ``search``.
        """
        smallest = self.search(-np.asarray(queries), k=k)
        return Ends(self.search(queries, k=k), Found(-smallest.values, smallest.ids))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to a file, in one step.

        Args:
            path: File to create or replace.
        """
        temporary = Path(path).with_name(Path(path).name + ".tmp")
        _faiss().write_index(self._index, str(temporary))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Inverted":
        """Reads an index from a file.

        Args:
            path: From ``save``.

        Returns:
            The index.

        Raises:
            CorruptFileError: If it is no such file.
            MissingPackageError: If faiss is not installed.
        """
        faiss = _faiss()
        made = cls.__new__(cls)
        try:
            made._index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise CorruptFileError(path, "is no index of faiss, or is damaged. Make it anew from its rows.") from error
        made.kind = type(made._index).__name__
        return made


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError.of("faiss-cpu", "to search approximately", "neighbors") from error
    return faiss
