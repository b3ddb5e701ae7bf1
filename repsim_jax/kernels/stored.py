"""How is a tangent kernel too long for one sitting computed? Strip by strip, into a file that an interruption keeps."""

import functools
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from repsim_jax.durable import lock_folder, replace_file, writing
from repsim_jax.errors import BadArrayError, CorruptFileError, DamageWarning, StoreMismatchError
from repsim_jax.kernels.blocks import in_blocks
from repsim_jax.kernels.change import fullest_row
from repsim_jax.kernels.costs import MEMORY, checked_long, cost_of
from repsim_jax.kernels.empirical import Prepared, prepared
from repsim_jax.kernels.entrance import checked_blocks, checked_inputs
from repsim_jax.kernels.models import Model, as_model, leaves_of
from repsim_jax.linalg import precise_jit

KERNEL_FILE, JOURNAL_FILE = "kernel.npy", "kernel.json"
# Outputs on these many examples, and on one random input, are recorded to know the function again; and the kernel of
# some finished rows is computed again, since outputs may be equal, such as all zero, where the kernels are not.
_RECORDED, _RECOMPUTED = 8, 4
# Equal up to the rounding of another machine, by bytes of a number.
_SAME_OUTPUTS = {2: 5e-2, 4: 1e-4, 8: 1e-4}
# Sums of products of tangents round more than outputs do.
_SAME_KERNEL = {2: 1e-1, 4: 1e-3, 8: 1e-3}

_ANOTHER = "belongs to another model, other inputs or other blocks. Pass the same again, or choose another folder."


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
    disk; a later call with the same model and inputs computes those that are missing or were damaged, and one with
    others is refused. For that it reads all strips that are there, and computes a few of their entries again. Memory
    holds the tangents of one strip and of some columns for ``output_block`` outputs, and the strip itself;
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
        BadArrayError: As ``ntk``, if ``outputs`` is "full", if ``memory`` does not hold one example, and if a strip
            holds NaN or infinity.
        StoreMismatchError: If the folder holds a kernel of another model, other inputs or blocks, or another process
            is writing there.
        CorruptFileError: If the journal cannot be read, or the kernel beside it is missing or of another shape.
        NoSpaceError: If the disk has no room for the kernel.
        FileError: If the folder cannot be written.
        UnknownNameError: As ``ntk``.
        RepsimError: As ``ntk``.

    Warns:
        DamageWarning: If strips on the disk are not what was written, and are computed again.
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
    done = dict(journal["crc32"])
    if done:
        kernel = np.load(path, mmap_mode="r+")
        done = _verified(work, path, kernel, done)
    else:
        dtype = jnp.promote_types(leaves_of(work.parts.params).arrays[0].dtype, jnp.float32)
        kernel = _new_file(path, dtype, n)
    strips = work.strips()
    total = len(strips) * (len(strips) + 1) // 2
    for i, (start, end) in enumerate(strips):
        if str(i) in done:
            continue
        before = i * (i + 1) // 2
        strip = _strip(work, strips[: i + 1], lambda tiles, before=before: on_progress(before + tiles, total))
        _check_strip(strip, start)
        kernel[start:end, :end] = strip
        kernel[:start, start:end] = strip[:, :start].T
        with writing(path):
            kernel.flush()
        done[str(i)] = _crc32(kernel[start:end, :end])
        replace_file(folder / JOURNAL_FILE, json.dumps({**journal, "crc32": done}).encode())


def _crc32(strip: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(strip).data)


def _check_strip(strip: np.ndarray, start: int) -> None:
    row = fullest_row(~np.isfinite(strip))
    if row is not None:
        raise BadArrayError(
            f"ntk_to_file: row {start + row} of the kernel holds NaN or infinity, since outputs or their derivatives "
            "do (the square root and a norm have no derivative at 0). Leave this example out, or mend the model there."
        )


def _verified(work: _Work, path: Path, kernel: np.ndarray, done: dict[str, int]) -> dict[str, int]:
    """Those finished strips that are what was written, of this model."""
    strips = work.strips()
    sound = {name: crc for name, crc in done.items() if _sound(kernel, *strips[int(name)], crc)}
    for name in done.keys() - sound.keys():
        start, end = strips[int(name)]
        message = (
            f"{path}: rows {start} to {end - 1} are not what was written; they are computed again. Check the disk."
        )
        warnings.warn(DamageWarning(message), stacklevel=4)
    if sound:
        _check_same_kernel(work, path, kernel, sorted(map(int, sound)))
    return sound


def _sound(kernel: np.ndarray, start: int, end: int, crc: int) -> bool:
    return _crc32(kernel[start:end, :end]) == crc and np.array_equal(
        kernel[:start, start:end], kernel[start:end, :start].T
    )


def _check_same_kernel(work: _Work, path: Path, kernel: np.ndarray, sound: list[int]) -> None:
    """Computes some entries of finished strips again."""
    strips = work.strips()
    rows = np.concatenate([np.arange(*strips[i]) for i in sound])
    rows = _spread(rows, min(_RECOMPUTED, work.block))
    few = work._replace(x=work.x[rows], block=len(rows))
    again, before = _strip(few, [(0, len(rows))], lambda _: None), kernel[np.ix_(rows, rows)]
    bound = _SAME_KERNEL[_bytes_of(work)] * max(np.abs(again).max(), np.abs(before).max())
    if not np.abs(again - before).max() <= bound:
        raise StoreMismatchError(path.with_name(JOURNAL_FILE), _ANOTHER)


def _spread(rows: np.ndarray, number: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, number).round().astype(int))]


def _bytes_of(work: _Work) -> int:
    """Of a number of the narrowest kind that takes part in the outputs."""
    given = jax.eval_shape(work.parts.apply, work.parts.params, work.parts.rest, work.x[:1])
    arrays = (*leaves_of(work.parts.params).arrays, given)
    return min(array.dtype.itemsize for array in arrays)


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
        found["crc32"] = {str(int(strip)): int(crc) for strip, crc in found["crc32"].items()}
        found["block"] = max(1, int(found["block"]))
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as failure:
        reason = f"is no journal of a kernel, or lacks its {KERNEL_FILE} ({failure}). Choose another folder."
        raise CorruptFileError(path, reason) from failure
    return found


def _journal(work: _Work, folder: Path, found: dict[str, Any] | None) -> dict[str, Any]:
    """What is known of the kernel in the folder: checksums of the strips that are done, none where there is none."""
    given = _recorded(work)
    here = {
        "format": "repsim_jax tangent kernel", "version": 3, "sha256": _fingerprint(work), "kind": work.outputs,
        "block": work.block, "output_block": work.output_block, "outputs": given.tolist(), "crc32": {},
    }  # fmt: skip
    if found is None:
        return here
    before, path = found["outputs"], folder / JOURNAL_FILE
    same = all(found.get(key) == here[key] for key in here.keys() - {"outputs", "crc32"})
    if not (same and _near(before, given, _SAME_OUTPUTS[_bytes_of(work)])):
        raise StoreMismatchError(path, _ANOTHER)
    strips = {str(i) for i in range(len(work.strips()))}
    if found["shape"] != (len(work.x), len(work.x)) or not found["crc32"] or not found["crc32"].keys() <= strips:
        raise CorruptFileError(path, f"does not fit to the kernel beside it, of shape {found['shape']}. Remove both.")
    return {**here, "outputs": before.tolist(), "crc32": found["crc32"]}


def _recorded(work: _Work) -> np.ndarray:
    """Outputs on examples from everywhere, and on a random input, which no other function shares by chance."""
    rows = work.x[_spread(np.arange(len(work.x)), _RECORDED)]
    if jnp.issubdtype(rows.dtype, jnp.floating):
        drawn = np.random.default_rng(0).standard_normal(rows.shape[1:])
        rows = jnp.concatenate([rows, jnp.asarray(drawn, rows.dtype)[None]])
    given = _outputs(work.parts.params, work.parts.rest, rows, apply=work.parts.apply)
    return np.asarray(given, np.float64).reshape(len(rows), -1)


@precise_jit(static_argnames=("apply",))
def _outputs(params: Any, rest: Any, x: Array, *, apply: Any) -> Array:
    return apply(params, rest, x)


def _near(before: np.ndarray, given: np.ndarray, tolerance: float) -> bool:
    """Equal up to a share of the largest; a random input may be none that the model takes, and give NaN in both."""
    if before.shape != given.shape:
        return False
    largest = np.abs(given[np.isfinite(given)]).max(initial=0)
    return np.allclose(before, given, rtol=0, atol=tolerance * largest, equal_nan=True)


def _fingerprint(work: _Work) -> str:
    """Of the parameters, the inputs and all other state."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path((work.parts.params, work.parts.rest, work.x))[0]:
        plain = leaf if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jax.random.key_data(leaf)
        array = np.ascontiguousarray(plain)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
