"""How does a fit survive an interruption, and a canonicalizer the program that trained it? Plain arrays beside options.

Reading runs no code: the network is made from its options, and its numbers are read into it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.canonicalization.canonicalizers import Canonicalizer, untrained
from repsim_jax.canonicalization.energies import Reference
from repsim_jax.canonicalization.naming import group_named
from repsim_jax.canonicalization.views import Views
from repsim_jax.durable import replace_file, writing
from repsim_jax.errors import BadArrayError, CorruptFileError, DivergedError, FileError
from repsim_jax.resumable import fingerprint, read_tree, write_tree
from repsim_jax.training import Standing

ABOUT_FILE, PARAMS_FILE = "canonicalizer.json", "canonicalizer.npz"
SCHEMA = "repsim.canonicalizer/1"


@dataclass(frozen=True)
class Build:
    """What a canonicalizer of images is made from, numbers aside.

    Attributes:
        group: Name for ``group_named``.
        input_shape: (height, width, channels) of the images.
        views: What the network sees.
        widths: Channels of its convolutions.
        num_outputs: Size of its vectors.
    """

    group: str
    input_shape: tuple[int, int, int]
    views: Views = Views()  # noqa: RUF009 (frozen)
    widths: tuple[int, ...] = (16, 16, 16)
    num_outputs: int = 128

    def canonicalizer(self) -> Canonicalizer:
        """One of this kind, with numbers that mean nothing yet."""
        return untrained(
            jax.random.key(0), self.input_shape, group_named(self.group), views=self.views, widths=self.widths,
            num_outputs=self.num_outputs,
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {
            "group": self.group, "input_shape": list(self.input_shape), "views_size": self.views.size,
            "views_mask": self.views.mask, "views_compat": self.views.compat, "widths": list(self.widths),
            "num_outputs": self.num_outputs,
        }  # fmt: skip


def save_canonicalizer(folder: Path, canonicalizer: Canonicalizer, build: Build, about: Mapping[str, Any]) -> None:
    """Writes a fitted canonicalizer into a folder.

    Args:
        folder: Made where it does not exist.
        canonicalizer: With the energy that ``fit`` trains.
        build: What it was made from.
        about: What else to keep with it, as JSON can hold it.

    Raises:
        BadArrayError: If its energy is no network with a reference vector.
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
    """
    energy = canonicalizer.energy
    if not isinstance(energy, Reference):
        raise BadArrayError(f"save_canonicalizer keeps what fit trains, not an energy {type(energy).__name__}.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    numbers = (energy.params, energy.vector)
    told = {"schema": SCHEMA, "build": build.told(), "sha256": fingerprint(numbers), "about": dict(about)}
    write_tree(folder / PARAMS_FILE, numbers)
    replace_file(folder / ABOUT_FILE, (json.dumps(told, indent=1, allow_nan=False) + "\n").encode())


def load_canonicalizer(folder: Path) -> tuple[Canonicalizer, Build, dict[str, Any]]:
    """Reads what ``save_canonicalizer`` wrote.

    Args:
        folder: Where it is.

    Returns:
        The canonicalizer, what it was made from, and what was kept with it.

    Raises:
        FileError: If there is none.
        CorruptFileError: If it is damaged, or its numbers are not those that were written.
    """
    path = folder / ABOUT_FILE
    if not path.is_file():
        raise FileError(folder, "holds no canonicalizer. Begin with: repsim canonicalize fit DATA --out FOLDER.")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise KeyError("schema")
        parts, about, digest = told["build"], dict(told["about"]), str(told["sha256"])
        height, width, channels = parts["input_shape"]
        build = Build(
            parts["group"], (height, width, channels),
            Views(parts["views_size"], parts["views_mask"], parts.get("views_compat")),
            tuple(parts["widths"]), parts["num_outputs"],
        )  # fmt: skip
        made = build.canonicalizer()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(path, "is no record of a canonicalizer. Fit it again into another folder.") from error
    params, vector = read_tree(folder / PARAMS_FILE, (made.energy.params, made.energy.vector))
    if fingerprint((params, vector)) != digest:
        raise CorruptFileError(folder / PARAMS_FILE, "holds other numbers than its record says. Fit it again.")
    energy = replace(made.energy, params=jax.tree.map(jnp.asarray, params), vector=jnp.asarray(vector))
    return replace(made, energy=energy), build, about


class RoundKeeper:
    """Keeps where one round of a fit stands, and stops it where a loss is not finite.

    Attributes:
        path: The file; None keeps nothing.
        number: Of the round.
    """

    def __init__(self, folder: Path | None, number: int):
        self.path = None if folder is None else folder / f"round_{number:02d}.npz"
        self.number = number

    def resumed(self, fresh: Standing) -> Standing:
        """Where to go on.

        Args:
            fresh: Where a new round starts.

        Returns:
            What was kept, or ``fresh``.
        """
        if self.path is None or not self.path.is_file():
            return fresh
        standing = read_tree(self.path, fresh._replace(done=np.zeros((), np.int64)))
        return standing._replace(done=int(standing.done))

    def keep(self, standing: Standing) -> None:
        """Keeps where it stands.

        Args:
            standing: Parameters, the optimizer's state and losses.

        Raises:
            DivergedError: If a loss is not finite.
        """
        bad = np.flatnonzero(~np.isfinite(standing.losses))
        if bad.size:
            raise DivergedError(
                f"the loss is not finite at step {bad[0]} of round {self.number}. Lower the learning rate."
            )
        if self.path is not None:
            write_tree(self.path, standing._replace(done=np.int64(standing.done)))
