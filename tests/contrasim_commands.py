"""Small networks as array files, and a measure that was fitted on four of them, for tests of the command line."""

from pathlib import Path

import contrasim_cases as cases
import numpy as np
from typer.testing import CliRunner

from repsim_jax.activations.layers import Layers
from repsim_jax.cli import app

NETWORKS = cases.networks(5)
QUICK = ("--steps", "20", "--batch-size", "32", "--anchors", "16", "--no-sensitivity")
FILES = ("net_0.npz", "net_1.npz", "net_2.npz", "net_3.npz")


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def written(side: Layers, path: Path) -> None:
    np.savez(path, ids=np.asarray(side.ids), **{name: side.read(name) for name in side.names})
