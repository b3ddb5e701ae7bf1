"""A million stored feature rows: top influence of a thousand queries, duplicates, and rows that come later.

    python benchmarks/influence_scale.py [--rows 1000000] [--folder TMP]

Rows of 256 numbers in 2,000 clusters of very different sizes and widths stand for projected gradients. Near copies of
some are planted. What is exact is checked against NumPy in float64: top rows of some queries, and all rows within the
cosine of some rows. Faiss indexes the same store; its recall is against the exact search. Memory is what the process
has written (RssAnon), sampled, and the peak of all that it holds, pages of files included. Nothing is recorded for
other numbers of rows. One core: pin it (taskset) and set XLA_FLAGS for one thread.
"""

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from _record import record

from repsim_jax.influence.curation import close_pairs
from repsim_jax.influence.search import Exact, Found, Inverted, recall, top_influence

SEED, WIDTH, CLUSTERS, SHARD = 0, 256, 2000, 100_000
QUERIES, K, COPIES, LATER, CHECKED = 1000, 10, 1000, 10_000, 25
COSINE = 0.98


class Memory:
    """Samples the private memory of this process."""

    def __init__(self) -> None:
        self.most, self._ends = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ends.wait(0.05):
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("RssAnon"):
                    self.most = max(self.most, int(line.split()[1]))

    def peak(self) -> int:
        """MiB since the last call.

        Returns:
            The most that was seen.
        """
        most, self.most = self.most, 0
        return most // 1024


def shards(rows: int) -> Iterator[np.ndarray]:
    """Rows, made anew at each call; the last ones are near copies of the first ones.

    Args:
        rows: How many.

    Yields:
        Blocks of at most ``SHARD`` rows.
    """
    generator = np.random.default_rng(SEED)
    centers = generator.standard_normal((CLUSTERS, WIDTH)).astype(np.float32)
    widths = generator.uniform(0.3, 1.2, CLUSTERS).astype(np.float32)
    shares = 1 / np.arange(1, CLUSTERS + 1) ** 0.5
    shares /= shares.sum()
    first = np.zeros((0, WIDTH), np.float32)
    for start in range(0, rows, SHARD):
        size = min(SHARD, rows - start)
        which = generator.choice(CLUSTERS, size, p=shares)
        block = centers[which] + widths[which, None] * generator.standard_normal((size, WIDTH), dtype=np.float32)
        if start == 0:
            first = block[:COPIES].copy()
        if start + size == rows:
            block[-COPIES:] = first + 0.05 * generator.standard_normal((COPIES, WIDTH), dtype=np.float32)
        yield block


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """A result, and what it took.

    Args:
        call: What to run.

    Returns:
        Its result; seconds by the clock and of the processor.
    """
    start = time.perf_counter(), time.process_time()
    result = call()
    return result, {
        "seconds": round(time.perf_counter() - start[0], 2),
        "processor_seconds": round(time.process_time() - start[1], 2),
    }


def stored(folder: Path, rows: int) -> Exact:
    """Stores the rows.

    Args:
        folder: Of the store.
        rows: How many.

    Returns:
        The store.
    """
    store = Exact(folder)
    for number, block in enumerate(shards(rows)):
        store.add(block, number * SHARD + np.arange(len(block)))
    return store


def numpy_top(store: Exact, queries: np.ndarray) -> np.ndarray:
    """Ids of the largest products in float64.

    Args:
        store: The rows.
        queries: Some queries.

    Returns:
        (m, K) ids.
    """
    values, ids = [], []
    for rows, numbers in store.blocks(20_000):
        values.append(queries.astype(np.float64) @ rows.astype(np.float64).T)
        ids.append(numbers)
    products, numbers = np.concatenate(values, axis=1), np.concatenate(ids)
    return numbers[np.argsort(-products, axis=1)[:, :K]]


def search(store: Exact, queries: np.ndarray) -> tuple[Found, dict[str, Any]]:
    """Exact searches, checked.

    Args:
        store: The rows.
        queries: All queries.

    Returns:
        The rows of the largest products, and figures.
    """
    top_influence(store, queries[:8], k=K)  # compiles another shape of queries, reads and checks the files
    top, spent = timed(lambda: top_influence(store, queries, k=K))
    largest = Found(-top.lowering.values, top.lowering.ids)
    same = np.mean(largest.ids[:CHECKED] == numpy_top(store, queries[:CHECKED]))
    opposite = np.mean(top.raising.ids[:CHECKED] == numpy_top(store, -queries[:CHECKED]))
    told = {"queries": len(queries), "k_of_each_sign": K, **spent}
    return largest, told | {"checked_queries": CHECKED, "share_as_numpy": float(min(same, opposite))}


def approximate(store: Exact, queries: np.ndarray, truth: Found, exact_seconds: float) -> dict[str, Any]:
    """Faiss on the same store.

    Args:
        store: The rows.
        queries: All queries.
        truth: Of the exact search.
        exact_seconds: Processor seconds of the exact search of both signs.

    Returns:
        Figures by index and number of cells searched.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    result: dict[str, Any] = {}
    for kind in ("IVF1024,Flat", "IVF1024,PQ32"):
        index, built = timed(lambda kind=kind: Inverted.of(store, sample=41_000, kind=kind))
        result[kind] = {"build": built}
        for probes in (8, 64):
            index.probes = probes
            found, spent = timed(lambda index=index: index.search(queries, k=K))
            figures = {f"recall_at_{K}": round(recall(found, truth), 4), **spent}
            figures["times_faster_than_exact_of_one_sign"] = round(
                exact_seconds / 2 / max(spent["processor_seconds"], 1e-3), 1
            )
            result[kind][f"probes_{probes}"] = figures
    return result


def duplicates(store: Exact, rows: int) -> dict[str, Any]:
    """All pairs above a cosine, checked.

    Args:
        store: The rows.
        rows: How many of them, the first.

    Returns:
        Figures.
    """
    unit = np.concatenate([block for block, _ in store.blocks(SHARD)])[:rows]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found, spent = timed(lambda: close_pairs(unit, COSINE))
    planted = {(i, rows - COPIES + i) for i in range(COPIES)}
    pairs = set(map(tuple, found.pairs.tolist()))
    chosen = np.concatenate([np.arange(CHECKED), np.random.default_rng(1).integers(0, rows, CHECKED)])
    missed, extra = 0, 0
    for row in chosen.tolist():
        cosines = unit @ unit[row].astype(np.float32)
        near = {tuple(sorted((row, other))) for other in np.flatnonzero(cosines >= COSINE).tolist() if other != row}
        mine = {pair for pair in pairs if row in pair}
        missed, extra = missed + len(near - mine), extra + len(mine - near)
    return {
        "cosine": COSINE,
        "pairs": len(pairs),
        "planted": COPIES,
        "planted_found": len(planted & pairs),
        "share_of_all_pairs_compared": round(found.compared, 6),
        "checked_rows": len(chosen),
        "missed_of_checked": missed,
        "extra_of_checked": extra,
        **spent,
    }


def insert(store: Exact, rows: int, queries: np.ndarray) -> dict[str, Any]:
    """Rows that come later, and are found at once.

    Args:
        store: The rows.
        rows: How many there are.
        queries: All queries; some later rows are these, enlarged.

    Returns:
        Figures.
    """
    generator = np.random.default_rng(2)
    later = generator.standard_normal((LATER, WIDTH), dtype=np.float32)
    later[:CHECKED] = 5 * queries[:CHECKED]
    _, spent = timed(lambda: store.add(later, rows + np.arange(LATER)))
    again = Exact(store.folder)
    found = again.search(queries[:CHECKED], k=1).ids[:, 0]
    return {"rows": LATER, "found_first": float(np.mean(found == rows + np.arange(CHECKED))), **spent}


def main() -> None:
    """Stores, searches, compares and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="Where the store is made, and removed again.")
    options = parser.parse_args()
    memory, rows = Memory(), options.rows
    result: dict[str, Any] = {"rows": rows, "width": WIDTH, "dtype": "float32", "threads": 1}

    def told(name: str, figures: dict[str, Any]) -> None:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        result[name] = figures | {"private_mib_most": memory.peak(), "peak_mib_so_far": held}
        print(name, json.dumps(result[name]), flush=True)

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store, spent = timed(lambda: stored(Path(folder) / "rows", rows))
        bytes_ = sum(path.stat().st_size for path in (Path(folder) / "rows").iterdir())
        told("store", spent | {"mib_on_disk": bytes_ // 2**20})
        queries = next(shards(SHARD))[-QUERIES:] + np.random.default_rng(3).standard_normal((QUERIES, WIDTH))
        queries = queries.astype(np.float32)
        truth, figures = search(store, queries)
        told("top_influence", figures)
        told("faiss", approximate(store, queries, truth, figures["processor_seconds"]))
        told("insert", insert(store, rows, queries))
        told("duplicates", duplicates(store, rows))
    if rows == 1_000_000:
        print(record("influence_scale", result, seeds=[SEED, 1, 2, 3], packages=["faiss-cpu"]).name)


if __name__ == "__main__":
    main()
