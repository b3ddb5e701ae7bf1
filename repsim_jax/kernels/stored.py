"""How is a tangent kernel too long for one sitting computed? Strip by strip, into a file that an interruption keeps."""

import functools
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

from repsim_jax.durable import lock_folder, replace_file, writing
from repsim_jax.errors import CorruptFileError, StoreMismatchError
from repsim_jax.kernels.blocks import in_blocks
from repsim_jax.kernels.costs import MEMORY, checked_long, cost_of
from repsim_jax.kernels.empirical import Prepared, prepared
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
        outputs: As in ``ntk_to_file``.
        block: Rows of a strip, and columns of a tile.
        columns: Of a tile whose tangents are held at once.
        output_block: Outputs that are differentiated at once; None for all.
        num_chunks: How many times that makes.
    """

    parts: Model
    x: Array
    outputs: str | int
    block: int
    columns: int
    output_block: int | None
    num_chunks: int

    def strips(self) -> list[tuple[int, int]]:
        """First row and end of each strip."""
        return [(start, min(start + self.block, len(self.x))) for start in range(0, len(self.x), self.block)]


def ntk_to_file(
    model: Any, params: Any, x: Any, folder: str | os.PathLike[str],
    *, outputs: str | int = "trace", block: int | None = None, memory: int = MEMORY, output_block: int | None = None,
    params_filter: str | None = None, on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """Computes the tangent kernel (n, n) into a folder, and goes on where it was interrupted.

    The lower triangle is computed strip by strip of ``block`` rows, and mirrored. A strip counts once it is on the
    disk; a later call with the same model and inputs computes those that are missing, and one with others is refused.
    Memory holds the tangents of one strip and of some columns for ``output_block`` outputs, and the strip itself;
    ``ntk_cost`` tells how much that is.

    Args:
        model: As in ``ntk``.
        params: As in ``ntk``.
        x: Inputs (n, ...).
        folder: Where ``kernel.npy`` and its journal ``kernel.json`` are written; made where it is missing.
        outputs: "trace", "sum" or the number of one output, as in ``ntk``.
        block: Rows per strip. None: those of the kernel that was begun in the folder, or as many as fit into
            ``memory``; the tangents of a row are taken once, those of a column once per strip.
        memory: Bytes for tangents and a strip of the kernel, beside the model, the inputs and JAX itself.
        output_block: Outputs that are differentiated at once ("trace" only). None: all.
        params_filter: As in ``ntk``.
        on_progress: Called with the tiles that are done and all of them, after each tile.

    Returns:
        The kernel, memory-mapped and read-only.

    Raises:
        BadArrayError: As ``ntk``, if ``outputs`` is "full", and if ``memory`` does not hold one example.
        StoreMismatchError: If the folder holds a kernel of another model, other inputs or blocks, or another process
            is writing there.
        CorruptFileError: If the journal cannot be read, or the kernel beside it is missing or of another shape.
        NoSpaceError: If the disk has no room for the kernel.
        FileError: If the folder cannot be written.
        UnknownNameError: As ``ntk``.
        RepsimError: As ``ntk``.
    """
    checked_long("ntk_to_file", outputs, output_block)
    checked_blocks("ntk_to_file", block=block, memory=memory, output_block=output_block)
    parts = as_model(model, params, params_filter)
    x, _ = checked_inputs("ntk_to_file", parts, x, None, outputs=outputs)
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        found = _found(folder)
        cost = cost_of(
            parts, x, outputs=outputs, block=block or (found or {}).get("block"), memory=memory,
            output_block=output_block,
        )  # fmt: skip
        chunk = min(output_block or cost.num_outputs, cost.num_outputs) if outputs == "trace" else None
        chunks = -(-cost.num_outputs // chunk) if chunk else 1
        work = _Work(parts, x, outputs, cost.block, cost.columns, chunk, chunks)
        _compute(work, folder, _journal(work, folder, found), on_progress or (lambda *_: None))
    finally:
        os.close(lock)
    return np.load(folder / KERNEL_FILE, mmap_mode="r")


def _compute(work: _Work, folder: Path, journal: dict[str, Any], on_progress: Callable[[int, int], None]) -> None:
    path, n = folder / KERNEL_FILE, len(work.x)
    if journal["done"]:
        kernel = np.load(path, mmap_mode="r+")
    else:
        dtype = jnp.promote_types(leaves_of(work.parts.params).arrays[0].dtype, jnp.float32)
        kernel = _new_file(path, dtype, n)
    strips = work.strips()
    total = len(strips) * (len(strips) + 1) // 2
    for i, (start, end) in enumerate(strips):
        if i < journal["done"]:
            continue
        before = i * (i + 1) // 2
        strip = _strip(work, strips[: i + 1], lambda tiles, before=before: on_progress(before + tiles, total))
        kernel[start:end, :end] = strip
        kernel[:start, start:end] = strip[:, :start].T
        with writing(path):
            kernel.flush()
        replace_file(folder / JOURNAL_FILE, json.dumps({**journal, "done": i + 1}).encode())


def _new_file(path: Path, dtype: Any, n: int) -> np.memmap:
    """An empty kernel whose room on the disk is taken: a full disk found later would kill the process."""
    with writing(path):
        kernel = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(n, n))
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return kernel


def _strip(work: _Work, strips: list[tuple[int, int]], on_tile: Callable[[int], None]) -> np.ndarray:
    """Rows of the last of the strips with the columns of all; tangents of the rows are taken once per chunk."""
    start, end = strips[-1]
    static = {
        "apply": work.parts.apply, "outputs": work.outputs, "output_block": work.output_block,
    }  # fmt: skip
    state = (work.parts.params, work.parts.rest)
    found: list[np.ndarray | float] = [0.0] * len(strips)
    for chunk in range(work.num_chunks):
        rows = _filled(work.x[start:end], work.block)
        left = _held(state, in_blocks(rows, work.columns), chunk, static)
        for j, (first, last) in enumerate(strips):
            tile = _tile(state, left, in_blocks(work.x[first:last], work.columns), chunk, static)
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


def _prepared(apply: Any, params: Any, rest: Any, x: Array, outputs: str | int, output_block: int | None) -> Prepared:
    return prepared(Model(apply, params, rest), x, outputs=outputs, output_block=output_block, by_layer=False)


@precise_jit(static_argnames=("apply", "outputs", "output_block"))
def _tangents(
    params: Any, rest: Any, x: Array, chunk: Array | int,
    *, apply: Any, outputs: str | int, output_block: int | None,
) -> Any:  # fmt: skip
    ready = _prepared(apply, params, rest, x, outputs, output_block)
    return ready.features(x, ready.chunks[chunk])


def _held(state: tuple[Any, Any], parts: Array, chunk: int, static: dict[str, Any]) -> Any:
    """Tangents of a strip's rows, taken part by part: what is only on the way to them is small, and nothing is copied.

    Copies of the last example fill the last part.
    """
    whole = None
    for i, part in enumerate(parts):
        found = _tangents(*state, part, chunk, **static)
        if len(parts) == 1:
            return found
        if whole is None:
            whole = jax.tree.map(
                lambda leaf: jnp.zeros((parts.shape[0] * parts.shape[1], *leaf.shape[1:]), leaf.dtype), found
            )
        whole = _placed(whole, found, i * parts.shape[1])
    return whole


@functools.partial(jax.jit, donate_argnums=0)
def _placed(whole: Any, part: Any, start: Array | int) -> Any:
    return jax.tree.map(lambda w, p: jax.lax.dynamic_update_slice_in_dim(w, p, start, 0), whole, part)


def _tile(state: tuple[Any, Any], left: Any, parts: Array, chunk: int, static: dict[str, Any]) -> np.ndarray:
    """Kernel of a strip with some columns, part by part.

    XLA's CPU backend multiplies tangents at full speed only where they are made by another program than this.
    """
    found = []
    for part in parts:
        right = _tangents(*state, part, chunk, **static)
        found.append(np.asarray(_products(*state, left, right, part, **static)))
    return np.concatenate(found, axis=1)


@precise_jit(static_argnames=("apply", "outputs", "output_block"))
def _products(
    params: Any, rest: Any, left: Any, right: Any, x: Array,
    *, apply: Any, outputs: str | int, output_block: int | None,
) -> Array:  # fmt: skip
    return _prepared(apply, params, rest, x, outputs, output_block).gram(left, right)[""]


def _found(folder: Path) -> dict[str, Any] | None:
    """The journal of a kernel that was begun in the folder; None where there is none."""
    path = folder / JOURNAL_FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["shape"] = np.load(folder / KERNEL_FILE, mmap_mode="r").shape
        found["outputs"] = np.asarray(found["outputs"], np.float64)
        found["done"], found["block"] = int(found["done"]), max(1, int(found["block"]))
    except (ValueError, KeyError, TypeError, FileNotFoundError) as failure:
        reason = f"is no journal of a kernel, or lacks its {KERNEL_FILE} ({failure}). Choose another folder."
        raise CorruptFileError(path, reason) from failure
    return found


def _journal(work: _Work, folder: Path, found: dict[str, Any] | None) -> dict[str, Any]:
    """What is known of the kernel in the folder: strips that are done, none where there is none."""
    given = np.asarray(work.parts.apply(work.parts.params, work.parts.rest, work.x[:1]), np.float64).ravel()
    here = {
        "format": "repsim_jax tangent kernel", "version": 2, "sha256": _fingerprint(work), "kind": work.outputs,
        "block": work.block, "output_block": work.output_block, "outputs": given.tolist(), "done": 0,
    }  # fmt: skip
    if found is None:
        return here
    before, path = found["outputs"], folder / JOURNAL_FILE
    same = all(found.get(key) == here[key] for key in here.keys() - {"outputs", "done"})
    near = before.shape == given.shape and np.abs(before - given).max() <= _SAME_FUNCTION * np.abs(given).max()
    if not (same and near):
        reason = (
            "belongs to another model, other inputs or other blocks. Pass the same again, or choose another folder."
        )
        raise StoreMismatchError(path, reason)
    if found["shape"] != (len(work.x), len(work.x)) or not 0 < found["done"] <= len(work.strips()):
        raise CorruptFileError(path, f"does not fit to the kernel beside it, of shape {found['shape']}. Remove both.")
    return {**here, "outputs": before.tolist(), "done": found["done"]}


def _fingerprint(work: _Work) -> str:
    """Of the parameters, the inputs and all other state."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path((work.parts.params, work.parts.rest, work.x))[0]:
        plain = leaf if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jax.random.key_data(leaf)
        array = np.ascontiguousarray(plain)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
