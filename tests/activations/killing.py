"""Kills writers and compares what is left with an uninterrupted run; shared by tests and benchmarks/store_faults.py."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from activations import interrupted

from repsim_jax.activations import open_store
from repsim_jax.errors import FileError, StoreMismatchError

ROOT = Path(__file__).resolve().parents[2]


def spawn(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(interrupted.__file__)), str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def kill_at_random(folder: Path, rng: random.Random) -> bool:
    """Starts the writer and kills it at some time after some batch, or while it finishes. True if it died of that."""
    with spawn(folder) as writer:
        assert writer.stdout is not None
        finishing = rng.random() < 0.25
        num_lines = rng.randint(1, interrupted.NUM_EXAMPLES // interrupted.BATCH)
        for number, line in enumerate(writer.stdout, start=1):
            if line.strip() == "finishing" or (number == num_lines and not finishing):
                break
        time.sleep(rng.uniform(0, 0.01))
        writer.kill()
        return writer.wait() == -signal.SIGKILL


def kill_at_step(folder: Path, step: int) -> bool:
    """Runs a writer that kills itself before its ``step``-th file operation. False if it finished before that."""
    with spawn(folder, str(step)) as writer:
        writer.communicate()
    assert writer.returncode in (0, -signal.SIGKILL)
    return writer.returncode != 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def finished(folder: Path) -> bool:
    """Whether the folder reads as a store; if it does, it must be whole, example by example."""
    try:
        store = open_store(folder)
    except FileError:
        return False
    store.verify()
    assert list(store.ids) == interrupted.IDS
    for layer in interrupted.WIDTHS:
        np.testing.assert_array_equal(store.read(layer), interrupted.rows(layer))
    return True


def complete(folder: Path) -> None:
    """Runs the same command again, as a user would; a store that is finished says so, and its last leftover goes."""
    try:
        interrupted.write(folder)
    except StoreMismatchError:
        assert finished(folder)
