"""How is a tangent kernel too long for one sitting computed? Strip by strip, into a file that an interruption keeps."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from repsim_jax.errors import CorruptFileError, FileError, StoreMismatchError
from repsim_jax.kernels.empirical import prepared
from repsim_jax.kernels.entrance import checked_blocks, checked_inputs
from repsim_jax.kernels.models import Model, as_model, leaves_of
from repsim_jax.linalg import precise_jit

KERNEL_FILE, JOURNAL_FILE = "kernel.npy", "kernel.json"
# Outputs of the first example are recorded, to know the function again: equal up to the rounding of another machine.
_SAME_FUNCTION = 1e-2


class _Work(NamedTuple):
    """One kernel to compute.

    Attributes:
        parts: The model.
        x: Its inputs.
        block: Rows of a strip, and columns of a tile.
        output_block: Outputs that are differentiated at once.
        num_chunks: How many times that makes.
    """

    parts: Model
    x: Array
    block: int
    output_block: int
    num_chunks: int

    def strips(self) -> list[tuple[int, int]]:
        """First row and end of each strip."""
        return [(start, min(start + self.block, len(self.x))) for start in range(0, len(self.x), self.block)]


def ntk_to_file(
    model: Any, params: Any, x: Any, folder: str | os.PathLike[str],
    *, block: int, output_block: int | None = None, on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """Computes the traced tangent kernel (n, n) into a folder, and goes on where it was interrupted.

    The lower triangle is computed strip by strip of ``block`` rows, and mirrored. A strip counts once it is on the
    disk; a later call with the same model, inputs and blocks computes those that are missing, and one with others is
    refused. Memory holds the tangents of two blocks for ``output_block`` outputs, and one strip of the kernel.

    Args:
        model: As in ``ntk``.
        params: As in ``ntk``.
        x: Inputs (n, ...).
        folder: Where ``kernel.npy`` and its journal ``kernel.json`` are written; made where it is missing. One process
            at a time may write there.
        block: Rows per strip.
        output_block: Outputs that are differentiated at once. None: all.
        on_progress: Called with the tiles that are done and all of them, after each tile.

    Returns:
        The kernel, memory-mapped and read-only.

    Raises:
        BadArrayError: As ``ntk``.
        StoreMismatchError: If the folder holds a kernel of another model, other inputs or blocks.
        CorruptFileError: If the journal cannot be read, or the kernel beside it is missing or of another shape.
        FileError: If the folder cannot be written.
        RepsimError: As ``ntk``.
    """
    checked_blocks("ntk_to_file", block=block, output_block=output_block)
    parts = as_model(model, params)
    x, _ = checked_inputs("ntk_to_file", parts, x, None)
    outputs = np.asarray(parts.apply(parts.params, parts.rest, x[:1]), np.float64).ravel()
    size = min(output_block or outputs.size, outputs.size)
    work = _Work(parts, x, block, size, -(-outputs.size // size))
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _compute(work, folder, _journal(work, folder, outputs), on_progress or (lambda *_: None))
    except OSError as failure:
        raise FileError(folder, f"cannot be written: {failure.strerror or failure}.") from failure
    return np.load(folder / KERNEL_FILE, mmap_mode="r")


def _compute(work: _Work, folder: Path, journal: dict[str, Any], on_progress: Callable[[int, int], None]) -> None:
    path, n = folder / KERNEL_FILE, len(work.x)
    if journal["done"]:
        kernel = np.load(path, mmap_mode="r+")
    else:
        dtype = jnp.promote_types(leaves_of(work.parts.params).arrays[0].dtype, jnp.float32)
        kernel = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(n, n))
    strips = work.strips()
    total = len(strips) * (len(strips) + 1) // 2
    for i, (start, end) in enumerate(strips):
        if i < journal["done"]:
            continue
        before = i * (i + 1) // 2
        strip = _strip(work, strips[: i + 1], lambda tiles, before=before: on_progress(before + tiles, total))
        kernel[start:end, :end] = strip
        kernel[:start, start:end] = strip[:, :start].T
        kernel.flush()
        _replace(folder / JOURNAL_FILE, {**journal, "done": i + 1})


def _strip(work: _Work, strips: list[tuple[int, int]], on_tile: Callable[[int], None]) -> np.ndarray:
    """Rows of the last of the strips with the columns of all; tangents of the rows are taken once per chunk."""
    start, end = strips[-1]
    static = {"apply": work.parts.apply, "output_block": work.output_block}
    state = (work.parts.params, work.parts.rest)
    found: list[np.ndarray | float] = [0.0] * len(strips)
    for chunk in range(work.num_chunks):
        left = _rows(*state, _filled(work.x[start:end], work.block), chunk, **static)
        for j, (first, last) in enumerate(strips):
            columns = _filled(work.x[first:last], work.block)
            tile = np.asarray(_tile(*state, left, columns, chunk, **static))
            found[j] = found[j] + tile[: end - start, : last - first]
            if chunk == work.num_chunks - 1:
                on_tile(j + 1)
    lower = np.concatenate(found, axis=1)
    square = lower[:, start:]
    lower[:, start:] = (square + square.T) / 2
    return lower


def _filled(rows: Array, block: int) -> Array:
    """Copies of the last row make the last block as long as the others, so that it is not compiled anew."""
    return rows[jnp.minimum(jnp.arange(block), len(rows) - 1)]


@precise_jit(static_argnames=("apply", "output_block"))
def _rows(params: Any, rest: Any, x: Array, chunk: Array | int, *, apply: Any, output_block: int) -> Any:
    ready = prepared(Model(apply, params, rest), x, outputs="trace", output_block=output_block, by_layer=False)
    return ready.features(x, ready.chunks[chunk])


@precise_jit(static_argnames=("apply", "output_block"))
def _tile(params: Any, rest: Any, left: Any, x: Array, chunk: Array | int, *, apply: Any, output_block: int) -> Array:
    ready = prepared(Model(apply, params, rest), x, outputs="trace", output_block=output_block, by_layer=False)
    return ready.gram(left, ready.features(x, ready.chunks[chunk]))[""]


def _journal(work: _Work, folder: Path, outputs: np.ndarray) -> dict[str, Any]:
    """What is known of the kernel in the folder: strips that are done, none where there is none."""
    here = {
        "format": "repsim_jax tangent kernel", "version": 1, "sha256": _fingerprint(work),
        "block": work.block, "output_block": work.output_block, "outputs": outputs.tolist(), "done": 0,
    }  # fmt: skip
    path = folder / JOURNAL_FILE
    if not path.exists():
        return here
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shape = np.load(folder / KERNEL_FILE, mmap_mode="r").shape
        same = all(found[key] == here[key] for key in here.keys() - {"outputs", "done"})
        before, done = np.asarray(found["outputs"], np.float64), int(found["done"])
    except (ValueError, KeyError, TypeError, FileNotFoundError) as failure:
        reason = f"is no journal of a kernel, or lacks its {KERNEL_FILE} ({failure}). Choose another folder."
        raise CorruptFileError(path, reason) from failure
    near = before.shape == outputs.shape and np.abs(before - outputs).max() <= _SAME_FUNCTION * np.abs(outputs).max()
    if not (same and near):
        reason = (
            "belongs to another model, other inputs or other blocks. Pass the same again, or choose another folder."
        )
        raise StoreMismatchError(path, reason)
    if shape != (len(work.x), len(work.x)) or not 0 < done <= len(work.strips()):
        raise CorruptFileError(path, f"does not fit to the kernel beside it, of shape {shape}. Remove both.")
    return found


def _fingerprint(work: _Work) -> str:
    """Of the parameters, the inputs and all other state."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path((work.parts.params, work.parts.rest, work.x))[0]:
        plain = leaf if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jax.random.key_data(leaf)
        array = np.ascontiguousarray(plain)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _replace(path: Path, document: dict[str, Any]) -> None:
    """A reader, or a crash, finds the old journal or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
