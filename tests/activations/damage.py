"""Small valid files of every format, and ways to damage them; shared by tests and benchmarks/store_faults.py."""

import collections
import io
import random
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors.numpy

from repsim_jax.activations.files import read_arrays, write_checksum
from repsim_jax.errors import BadArrayError, CorruptFileError, UnsafeFileError

ARRAYS = {"layer1": np.arange(600, dtype=np.float32).reshape(20, 30), "layer2": np.ones((20, 7), np.float16)}
# What a reader may say of a file that was damaged; everything else is a bug.
EXPECTED = (CorruptFileError, UnsafeFileError, BadArrayError)
FORMATS = ("npy", "npz", "npz_compressed", "safetensors", "parquet")


def valid_file(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, ARRAYS["layer1"])
    elif kind == "npz":
        np.savez(stream, **ARRAYS)
    elif kind == "npz_compressed":
        np.savez_compressed(stream, **ARRAYS)
    elif kind == "safetensors":
        return safetensors.numpy.save(ARRAYS)
    elif kind == "parquet":
        columns = {name: pyarrow.array(list(array.astype(np.float32))) for name, array in ARRAYS.items()}
        pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bit flips 40 %, truncation 20 %, a run of random bytes near the start 20 %, an insertion of own bytes 20 %."""
    damaged, kind = bytearray(data), rng.random()
    if kind < 0.4:
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    elif kind < 0.6:
        del damaged[rng.randrange(len(damaged)) :]
    elif kind < 0.8:
        start = rng.randrange(min(len(damaged), 200))
        damaged[start : start + rng.randint(1, 8)] = rng.randbytes(rng.randint(1, 8))
    else:
        place, first, second = (rng.randrange(len(damaged)) for _ in range(3))
        damaged[place:place] = damaged[min(first, second) : max(first, second)][:64]
    return bytes(damaged)


def fuzz(kind: str, count: int, seed: int, folder: Path, *, checksum: bool = False) -> collections.Counter[str]:
    """Outcomes of reading ``count`` damaged copies: "identical", "changed", or the name of the error."""
    rng, data = random.Random(seed), valid_file(kind)
    path = folder / f"layer1.{kind.removesuffix('_compressed')}"
    path.write_bytes(data)
    if checksum:
        write_checksum(path)
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        path.write_bytes(mutated(data, rng))
        outcomes[_outcome(path, kind)] += 1
    return outcomes


def _outcome(path: Path, kind: str) -> str:
    try:
        found = read_arrays(path)
    except EXPECTED as error:
        return type(error).__name__
    except Exception as error:  # counted, so that the count can be shown to be zero
        return f"unexpected {type(error).__name__}: {error}"[:200]
    wanted = {"layer1": ARRAYS["layer1"]} if kind == "npy" else ARRAYS
    same = found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)
    return "identical" if same else "changed"
