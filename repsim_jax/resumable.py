"""How does a long run go on where it was stopped? Its state goes to the disk whole, beside what it was begun with."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from repsim_jax.durable import lock_folder, replace_file, writing
from repsim_jax.errors import CorruptFileError, StoreMismatchError

RUN_FILE = "run.json"
# Numbers of the same run on another machine, up to rounding.
_SAME = 1e-3


@contextmanager
def resumable(folder: Path, facts: Mapping[str, Any]) -> Iterator[bool]:
    """Opens the folder of a run, as its only writer, and refuses that of another run.

    Args:
        folder: Made where it does not exist.
        facts: What the run depends on: strings, whole numbers and booleans, which must be equal, and floating-point
            numbers, which must be equal up to the rounding of another machine (1e-3, relative).

    Yields:
        Whether the folder held this run already.

    Raises:
        StoreMismatchError: If it holds another run, or another process writes to it.
        CorruptFileError: If its record is damaged.
        FileError: If the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        path = folder / RUN_FILE
        known = path.exists()
        if known:
            _compare(folder, _read(path), facts)
        else:
            replace_file(path, (json.dumps(dict(facts), indent=2, sort_keys=True) + "\n").encode())
        yield known
    finally:
        os.close(lock)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptFileError(path, f"is no record of a run ({error}). Choose another folder.") from error
    if not isinstance(found, dict):
        raise CorruptFileError(path, "is no record of a run. Choose another folder.")
    return found


def _compare(folder: Path, kept: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    different = [name for name in sorted({*kept, *facts}) if not _same(kept.get(name), facts.get(name))]
    if different:
        told = "; ".join(f"{name} was {kept.get(name)!r}, is {facts.get(name)!r}" for name in different[:4])
        more = f"; and {len(different) - 4} more" if len(different) > 4 else ""
        reason = f"holds another run: {told}{more}. Pass the same again, or choose another folder."
        raise StoreMismatchError(folder, reason)


def _same(kept: Any, now: Any) -> bool:
    if type(kept) is float and type(now) is float:
        return abs(kept - now) <= _SAME * max(abs(kept), abs(now))
    return kept == json.loads(json.dumps(now))


def fingerprint(tree: Any) -> str:
    """What arrays are, in short.

    Args:
        tree: A pytree of arrays.

    Returns:
        The sha256 of their shapes, types and bytes, in hexadecimal.
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_tree(path: Path, tree: Any) -> None:
    """Writes a pytree of arrays in one step: a reader, or a crash, finds the old ones or the new.

    Args:
        path: An .npz file.
        tree: Arrays of NumPy's own types; their order in the tree names them.

    Raises:
        NoSpaceError: If there is no room; the file is as before.
        FileError: If writing fails in another way.
    """
    content = io.BytesIO()
    arrays: dict[str, Any] = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    np.savez(content, **arrays)
    replace_file(path, content.getvalue())


def read_tree(path: Path, like: Any) -> Any:
    """Reads what ``write_tree`` wrote.

    Args:
        path: The file.
        like: A tree of arrays, or of shapes, of the same structure; an axis of size zero stands for one of any size.

    Returns:
        The tree, of NumPy arrays.

    Raises:
        CorruptFileError: If the file is damaged, or holds another tree.
    """
    leaves, structure = jax.tree.flatten(like)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found = [file[f"{i:05d}"] for i in range(len(leaves))]
            count = len(file.files)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptFileError(path, f"is damaged ({error}). Remove the folder and run again.") from error
    if count != len(leaves) or not all(map(_fits, found, leaves)):
        raise CorruptFileError(path, "holds other arrays than this run's. Remove the folder and run again.")
    return jax.tree.unflatten(structure, found)


def _fits(found: np.ndarray, like: Any) -> bool:
    """Whether an array is of the same type and shape."""
    shapes = zip(found.shape, like.shape, strict=False)
    return found.dtype == like.dtype and found.ndim == len(like.shape) and all(b in (0, a) for a, b in shapes)
