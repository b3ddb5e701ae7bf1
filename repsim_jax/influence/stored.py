"""How do a fitted curvature, and scores that took hours, survive an interruption? And how are they known again?

Everything is an ``.npz`` file of plain arrays with a description in JSON: reading one runs no code. Files are replaced
in one step, and equal content gives equal bytes.
"""

import hashlib
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.durable import lock_folder, replace_file, writing
from repsim_jax.errors import CorruptFileError, DamageWarning, FileError, RepsimError, StoreMismatchError
from repsim_jax.influence.curvature import Curvature, Eigen, Identity, Rows
from repsim_jax.influence.kronecker import EKFAC
from repsim_jax.influence.problems import Of, Problem
from repsim_jax.influence.projections import LoGra, RandomProjection
from repsim_jax.influence.pseudo import draws_of
from repsim_jax.kernels.layerwise import Layout
from repsim_jax.resumable import fingerprint

__all__ = ["Shards", "fingerprint", "load_arrays", "load_curvature", "save_arrays", "save_curvature"]

SCHEMA = "repsim.influence.curvature/1"
_ABOUT = "about"
_KINDS: dict[str, type] = {kind.__name__: kind for kind in (EKFAC, Eigen, Identity, LoGra, RandomProjection, Rows)}
# What numpy and zipfile raise for files that are cut, damaged, or no archives of plain arrays.
_UNREADABLE = (OSError, ValueError, TypeError, AttributeError, KeyError, EOFError, zipfile.BadZipFile)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None) -> None:
    """Writes named arrays and a description as one ``.npz`` file, in one step.

    Args:
        path: The file; its folder exists.
        arrays: By name.
        about: What JSON can hold.

    Raises:
        NoSpaceError: If there is no room; what was there before stays.
        FileError: If writing fails in another way.
    """
    told = np.frombuffer(json.dumps(dict(about or {}), sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    named: dict[str, Any] = {_ABOUT: told, **{name: np.asarray(array) for name, array in arrays.items()}}
    np.savez(buffer, **named)
    replace_file(path, buffer.getvalue())


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what ``save_arrays`` wrote; the archive's own checksums are compared.

    Args:
        path: The file.

    Returns:
        The arrays by name, and the description.

    Raises:
        FileError: If there is no such file.
        CorruptFileError: If it is damaged, or no such file.
    """
    if not path.is_file():
        raise FileError(path, "no such file. Give the command that writes it first: repsim influence fit.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        about = json.loads(found.pop(_ABOUT).tobytes())
    except _UNREADABLE as error:
        raise CorruptFileError(path, f"is damaged or not ours ({error}). Delete it and compute it again.") from error
    return found, about


def save_curvature(
    path: str | os.PathLike[str], curvature: Curvature, *, of: Of | str = "objective",
    stamp: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Writes a fitted curvature.

    Args:
        path: The ``.npz`` file; its folder exists.
        curvature: Of this package.
        of: What it is of, as its fit was told.
        stamp: What it belongs to: fingerprints by name, which ``load_curvature`` compares.

    Raises:
        RepsimError: If it is a curvature of your own, whose parts are not known here.
        NoSpaceError: If there is no room; what was there before stays.
        FileError: If writing fails in another way.
    """
    kind = type(curvature).__name__
    if _KINDS.get(kind) is not type(curvature):
        raise RepsimError(
            f"curvatures that can be saved are {', '.join(_KINDS)}; got {kind}. Save its arrays yourself."
        )
    arrays: dict[str, np.ndarray] = {}
    parts = {} if kind == "Identity" else {one.name: getattr(curvature, one.name) for one in fields(curvature)}  # pyright: ignore[reportArgumentType]
    told = {name: _taken_apart(part, arrays) for name, part in parts.items()}
    about = {"schema": SCHEMA, "kind": kind, "of": of, "parts": told, "stamp": dict(stamp or {})}
    save_arrays(Path(path), arrays, about)


def _taken_apart(part: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A description in JSON, with numbers of arrays in it; the arrays are added to the others."""
    if isinstance(part, Layout):
        return {"layout": True}
    if part is None or isinstance(part, bool | int | float | str):
        return {"value": part}
    if isinstance(part, list | tuple):
        return [_taken_apart(one, arrays) for one in part]
    name = f"array_{len(arrays)}"
    if isinstance(part, jax.Array) and jnp.issubdtype(part.dtype, jax.dtypes.prng_key):
        arrays[name] = np.asarray(jax.random.key_data(part))
        return {"key": name, "impl": str(jax.random.key_impl(part))}
    arrays[name] = np.asarray(part)
    return {"array": name}


def load_curvature(
    path: str | os.PathLike[str], posed: Problem, *, stamp: Mapping[str, str] | None = None
) -> tuple[Curvature, str]:
    """Reads a curvature for the problem that it was fitted to.

    Args:
        path: What ``save_curvature`` wrote.
        posed: The problem; it tells how parameters are made up of matrices.
        stamp: Fingerprints by name, as they were given to ``save_curvature``.

    Returns:
        The curvature, and what it is of.

    Raises:
        FileError: If there is no such file.
        CorruptFileError: If it is damaged, or not ours.
        StoreMismatchError: If it was fitted to something else.
    """
    path = Path(path)
    arrays, about = load_arrays(path)
    kind = _KINDS.get(str(about.get("kind")))
    if about.get("schema") != SCHEMA or kind is None:
        raise CorruptFileError(path, "holds no curvature of this version. Fit it again: repsim influence fit.")
    differing = [name for name, value in (stamp or {}).items() if about["stamp"].get(name) != value]
    if differing:
        raise StoreMismatchError(
            path,
            f"was fitted to another {' and another '.join(differing)}. Fit it again, or give what it was fitted to.",
        )
    if kind is Identity:
        return Identity(), about["of"]
    layout = lambda: draws_of(jax.random.key(0), posed, about["of"], num_samples=1, block=1).layout  # noqa: E731
    parts = {name: _put_together(told, arrays, layout) for name, told in about["parts"].items()}
    try:
        return kind(**parts), about["of"]
    except TypeError as error:
        raise CorruptFileError(
            path, "was written by another version of this package. Fit the curvature again."
        ) from error


def _put_together(told: Any, arrays: Mapping[str, np.ndarray], layout: Callable[[], Layout]) -> Any:
    if isinstance(told, list):
        return [_put_together(one, arrays, layout) for one in told]
    if "layout" in told:
        return layout()
    if "value" in told:
        return told["value"]
    if "key" in told:
        return jax.random.wrap_key_data(jnp.asarray(arrays[told["key"]]), impl=told["impl"])
    return jnp.asarray(arrays[told["array"]])


class Shards:
    """Parts of a long computation on the disk; give it as ``kept`` to ``influence`` and ``self_influence``.

    Use it as a context manager: it locks its folder against a second writer. What is there is not computed again; what
    is damaged is, with a warning. Parts of another stamp live in another folder and are left alone.

    Attributes:
        folder: Of the parts with this stamp.
    """

    def __init__(self, folder: str | os.PathLike[str], stamp: Mapping[str, Any]):
        told = json.dumps(dict(stamp), sort_keys=True, default=str).encode()
        self.folder = Path(folder) / hashlib.sha256(told).hexdigest()[:16]
        self._stamp, self._lock = told, -1

    def __enter__(self) -> "Shards":
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.folder)
        if not (self.folder / "stamp.json").is_file():
            replace_file(self.folder / "stamp.json", self._stamp)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def __call__(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Gives a part: from the disk, or computed and then kept.

        Args:
            name: Of the part; letters, digits and dashes.
            compute: Computes it.

        Returns:
            Arrays by name.

        Raises:
            NoSpaceError: If there is no room.
            FileError: If writing fails in another way.

        Warns:
            DamageWarning: If the part on the disk cannot be read.
        """
        path = self.folder / f"{name}.npz"
        if path.is_file():
            try:
                return load_arrays(path)[0]
            except CorruptFileError as error:
                warnings.warn(DamageWarning(f"{error.path}: is damaged, and is computed again."), stacklevel=2)
        found = compute()
        save_arrays(path, found)
        return found
