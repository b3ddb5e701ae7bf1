"""Which networks of a population are there already? What training and storing share, whatever the networks read."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from repsim_jax.activations import Store, open_store
from repsim_jax.activations.extract import recorded
from repsim_jax.errors import FileError, StoreMismatchError

Progress = Callable[[str, int, int], None]
"""Called with (name of the network, steps done, all steps)."""


def stored_members(
    out: Path, *, num_models: int, seed: int, settings: Mapping[str, Any], make: Callable[[int, Path], Store]
) -> dict[str, Store]:
    """Makes every network whose store is not there yet.

    Args:
        out: Folder of the stores; the network of seed s is "seed-s.store" in it.
        num_models: How many networks, at least 1.
        seed: Seed of the first network; the others follow it.
        settings: What all networks share, as JSON has it; a finished store must have been made with the same.
        make: ``make(seed, path)`` trains a network and stores its layers at ``path``.

    Returns:
        {"seed-s": store}, in the order of the seeds.

    Raises:
        ValueError: If ``num_models`` or ``seed`` is out of range.
        StoreMismatchError: If a store is there that was made with other settings; nothing is trained then.
    """
    if num_models < 1 or seed < 0:
        raise ValueError(f"a population needs num_models >= 1 and seed >= 0; got {num_models} and {seed}.")
    paths = {one: out / f"seed-{one}.store" for one in range(seed, seed + num_models)}
    finished = {one: _reused(path, settings) for one, path in paths.items()}
    return {f"seed-{one}": finished[one] or make(one, path) for one, path in paths.items()}


def _reused(path: Path, settings: Mapping[str, Any]) -> Store | None:
    earlier = recorded(path)
    if earlier is None or not earlier.finished:
        return None
    store = open_store(path)
    was, now = store.metadata.get("settings") or {}, json.loads(json.dumps(settings))
    different = [key for key in {**now, **was} if was.get(key) != now.get(key)]
    if different:
        key = different[0]
        raise StoreMismatchError(
            path,
            f"this network is finished, and was made with {key} {was.get(key)!r}; asked for {now.get(key)!r}. Choose "
            "another folder, or remove the store.",
        )
    return store


def file_sha256(path: Path) -> str:
    """Tells a data file from others of its name.

    Args:
        path: The file.

    Returns:
        Its sha256, in hexadecimal.

    Raises:
        FileError: If there is no such file.
    """
    if not path.is_file():
        raise FileError(path, "no such file; expected the .parquet file that the networks are to be trained on.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(params: Any) -> str:
    """Tells trained weights from others, so that a store that was begun is only gone on with by the same network.

    Args:
        params: A pytree of arrays.

    Returns:
        The sha256 of all of them, in hexadecimal.
    """
    import jax

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
