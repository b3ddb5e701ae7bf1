"""How does a contest that takes hours go on where it was interrupted? What is answered is kept on disk."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from repsim_jax.durable import replace_file
from repsim_jax.errors import RepsimError
from repsim_jax.evaluation.contests.standings import Decisions, Line
from repsim_jax.similarity import contrasim


class Parts:
    """Answers and measures of a contest that are there already.

    Args:
        folder: Where they are kept; None keeps nothing.
        version: Of the code that makes them; what another version made is not taken.
    """

    def __init__(self, folder: Path | None, *, version: str = ""):
        self.folder, self.version = folder, version
        self._given = ""

    def of(self, arrays: Iterable[np.ndarray], settings: Mapping[str, Any]) -> "Parts":
        """The parts of one contest over these data with these settings; others are never mistaken for them.

        Args:
            arrays: All data of the contest.
            settings: Whatever else decides the answers; their ``repr`` must.

        Returns:
            The same folder, for this contest.
        """
        made = Parts(self.folder, version=self.version)
        if self.folder is not None:
            digest = hashlib.sha256(repr((self.version, sorted(settings.items()))).encode())
            for array in arrays:
                digest.update(repr(array.shape).encode())
                digest.update(np.ascontiguousarray(array).tobytes())
            made._given = digest.hexdigest()
        return made

    def answers(self, name: str, make: Callable[[], Decisions]) -> Decisions:
        """One part's answers, from the disk where they are there.

        Args:
            name: What tells this part from the others of the contest.
            make: Answers it.

        Returns:
            The answers.
        """
        path = self._path(name, ".json")
        if path is None:
            return make()
        if path.is_file() and (read := _read(path)) is not None:
            return read
        made = make()
        document = [{"line": list(line), "answers": [_plain(one) for one in answers]} for line, answers in made.items()]
        path.parent.mkdir(parents=True, exist_ok=True)
        payload = json.dumps(document)
        replace_file(path, f"{hashlib.sha256(payload.encode()).hexdigest()}\n{payload}\n".encode())
        return made

    def measure(self, name: str, make: Callable[[], contrasim.ContraSim]) -> contrasim.ContraSim:
        """A fitted measure, from the disk where it is there.

        Args:
            name: What tells this fit from the others of the contest.
            make: Fits it.

        Returns:
            The measure.
        """
        path = self._path(name, ".contrasim")
        if path is None:
            return make()
        if path.exists():
            try:
                return contrasim.load(path)
            except RepsimError:
                # Cut short while it was written, or damaged since: made anew.
                shutil.rmtree(path, ignore_errors=True)
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        contrasim.save(made, path)
        return made

    def _path(self, name: str, suffix: str) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / (hashlib.sha256(f"{self._given} {name}".encode()).hexdigest()[:32] + suffix)


def _plain(answers: np.ndarray) -> list:
    """As lists; None, which JSON has a word for, where there is no number."""
    plain = np.asarray(answers, float).astype(object)
    plain[np.isnan(answers)] = None
    return plain.tolist()


def _read(path: Path) -> Decisions | None:
    """The answers of a file; None where it is no such file, or not what was written."""
    try:
        checksum, payload = path.read_text(encoding="utf-8").splitlines()
        if checksum != hashlib.sha256(payload.encode()).hexdigest():
            return None
        document = json.loads(payload)
        return {Line(*one["line"]): [np.asarray(answers, float) for answers in one["answers"]] for one in document}
    except (ValueError, TypeError, KeyError):
        return None
