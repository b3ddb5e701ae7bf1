"""Speaks with the process that computes tangent kernels by torch.func; part of speed_ntk.py."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _ntk_cases import Case

_RIVAL = Path(__file__).with_name("_ntk_torch_rival.py")
_KINDS = ("two_layer", "mlp", "cnn")


class Torch:
    """A process of the rivals' environment that answers requests.

    Args:
        process: The process, which says first which version of torch it runs.
        folder: Where arrays are exchanged.
    """

    def __init__(self, process: "subprocess.Popen[str]", folder: Path):
        self.process, self.folder = process, folder
        self.version = self._answer()["torch"]

    @classmethod
    @contextmanager
    def started(cls, environment: str | Path | None, folder: Path) -> Iterator["Torch | None"]:
        """Starts the process, and ends it.

        Args:
            environment: A virtual environment that has torch; None for no process.
            folder: Where arrays are exchanged.

        Yields:
            The process, or None.
        """
        if environment is None:
            yield None
            return
        threads = str(len(os.sched_getaffinity(0)))
        arguments = [str(Path(environment) / "bin" / "python"), str(_RIVAL), str(folder), threads]
        with subprocess.Popen(arguments, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield cls(process, folder)
            assert process.stdin is not None
            process.stdin.close()

    def knows(self, case: Case) -> bool:
        """Tells whether the rival has this network.

        Args:
            case: The case.

        Returns:
            False for the ways of writing a weight.
        """
        return case.name.startswith(_KINDS)

    def prepared(self, case: Case) -> Callable[[], tuple[float, float, np.ndarray]]:
        """Hands a case over.

        Args:
            case: The case.

        Returns:
            A timed call: seconds, processor seconds and the kernel.
        """
        arrays = {f"p{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(case.params))}
        np.savez(self.folder / f"{case.name}.npz", x=np.asarray(case.x), **arrays)

        def call() -> tuple[float, float, np.ndarray]:
            assert self.process.stdin is not None
            print(case.name, file=self.process.stdin, flush=True)
            told = self._answer()
            return told["seconds"], told["processor_seconds"], np.load(self.folder / "kernel.npy")

        return call

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())
