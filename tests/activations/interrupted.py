"""A writer to be killed: ``python interrupted.py FOLDER [STEP]`` writes a known store, or goes on with it.

It prints a line when it begins to write, after each batch, and when it begins to finish. With STEP it kills itself just
before its STEP-th operation on the file system; else its parent kills it at a random time. It must start fast, so
nothing here imports JAX.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from repsim_jax.activations.store import Store, StoreWriter

NUM_EXAMPLES, CHUNK_ROWS, BATCH = 90, 8, 5
WIDTHS = {"block/0": 6, "block/1": 3}
METADATA = {"model": "made for the test", "layout": {"block/0": "flatten"}}
IDS = [f"photo {number} é" for number in range(NUM_EXAMPLES)]


def rows(layer: str) -> np.ndarray:
    seed = list(WIDTHS).index(layer)
    return np.random.default_rng(seed).normal(size=(NUM_EXAMPLES, WIDTHS[layer])).astype(np.float32)


def write(folder: Path, *, pause: float = 0.0, say: Callable[[str], None] = lambda _: None) -> Store:
    with StoreWriter(folder, chunk_rows=CHUNK_ROWS, metadata=METADATA) as writer:
        done = writer.num_committed
        assert list(writer.committed_ids) == IDS[:done]
        say("writing")
        for start in range(done, NUM_EXAMPLES, BATCH):
            some = slice(start, min(start + BATCH, NUM_EXAMPLES))
            writer.append(IDS[some], {layer: rows(layer)[some] for layer in WIDTHS})
            say("appended")
            time.sleep(pause)
        say("finishing")
        return writer.finish()


def _kill_before_step(step: int) -> None:
    left = [step]

    def counted(original: Callable) -> Callable:
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in ("open", "write", "fsync", "replace", "unlink", "mkdir", "ftruncate", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _kill_before_step(int(sys.argv[2]))
    write(Path(sys.argv[1]), pause=0.002, say=lambda text: print(text, flush=True))  # noqa: T201
