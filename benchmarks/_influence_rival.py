"""Speaks with the process that computes influence by other tools.

Part of influence_kronfluence.py and speed_influence.py.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _influence_networks import Case

_RIVAL = Path(__file__).with_name("_influence_torch_rival.py")


class Rival:
    """A process of the rivals' environment that answers requests.

    Args:
        process: The process, which says first which versions it runs.
        folder: Where arrays are exchanged.
    """

    def __init__(self, process: "subprocess.Popen[str]", folder: Path):
        self.process, self.folder = process, folder
        self.versions = self._answer()

    @classmethod
    @contextmanager
    def started(cls, environment: str | Path, folder: Path) -> Iterator["Rival"]:
        """Starts the process, and ends it.

        Args:
            environment: A virtual environment that has the tools.
            folder: Where arrays are exchanged.

        Yields:
            The process.
        """
        threads = str(len(os.sched_getaffinity(0)))
        arguments = [str(Path(environment) / "bin" / "python"), str(_RIVAL), str(folder), threads]
        with subprocess.Popen(arguments, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield cls(process, folder)
            assert process.stdin is not None
            process.stdin.close()

    def hand_over(self, case: Case, rows: np.ndarray, signs: np.ndarray) -> None:
        """Writes what all requests are about.

        Args:
            case: Weights and views.
            rows: (m,) numbers of the examples of pseudo-gradients.
            signs: (m, q) of their residuals.
        """
        np.savez(self.folder / "case.npz", **case.arrays())
        np.savez(self.folder / "signs.npz", rows=rows, signs=signs)

    def asked(self, case: Case, tool: str, **request: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Has one tool compute.

        Args:
            case: What was handed over.
            tool: "kronfluence", "traker" or "dattri".
            **request: Options of the tool.

        Returns:
            Processor seconds by phase, and arrays by name.
        """
        assert self.process.stdin is not None
        network = {"strides": case.network.strides, "activation": case.network.activation}
        said = {"tool": tool, "dtype": "float32", "batch": 32, "queries": 0, "own": False} | network | request
        print(json.dumps(said), file=self.process.stdin, flush=True)
        spent = self._answer()
        with np.load(self.folder / "found.npz") as held:
            return spent, {name: held[name] for name in held.files}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())
