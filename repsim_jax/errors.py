"""What can go wrong, one class per kind of remedy; every message says what was expected, what came and what to do."""

import difflib
import os
from collections.abc import Iterable


class RepsimError(ValueError):
    """Base of every error that repsim_jax raises on purpose; the command line prints it and exits with status 2."""


class BadArrayError(RepsimError):
    """Numbers that cannot be measured: NaN, Inf, too few rows, constant, wrong shape or dtype."""


class AlignmentError(RepsimError):
    """Two sets of representations are not of the same examples."""


class UnknownNameError(RepsimError):
    """A layer, measure, model or policy name that does not exist; the message suggests the nearest one."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> "UnknownNameError":
        """Builds the error for ``name`` of ``kind`` ("layer", "measure"), with its nearest neighbors in ``known``.

        Args:
            kind: What the name should have named, in the singular.
            name: What the user wrote.
            known: The names that exist.

        Returns:
            An error whose message names the nearest known names and lists up to twenty of all.
        """
        known = list(known)
        plain = {one.lower(): one for one in known}
        near = [plain[one] for one in difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.4)]
        hint = f" Did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
        listed = ", ".join(known[:20]) + (f", and {len(known) - 20} more" if len(known) > 20 else "")
        return cls(
            f"no {kind} is called {name!r}.{hint} There {'is' if len(known) == 1 else 'are'}: {listed or 'none'}."
        )


class FileError(RepsimError):
    """A file or folder that cannot be used; ``path`` says which."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason


class CorruptFileError(FileError):
    """A file that is truncated, damaged, or not what its name says."""


class UnsafeFileError(FileError):
    """A file that could run code when read (pickle, torch.save, object arrays): refused, with advice."""


class IncompleteStoreError(FileError):
    """A store that is still being written, or whose writer was stopped before the end."""


class StoreMismatchError(FileError):
    """A store that exists already, but for another model, layout, dtype or list of examples."""


class NoSpaceError(FileError):
    """The disk is full or over quota; what was committed before stays readable and can be resumed."""


class PolicyError(FileError):
    """A gate policy that is missing, empty, malformed, or that asks for what was not measured."""


class DivergedError(RepsimError):
    """A computation that grew beyond bounds or became too stiff before its end; a shorter one may get there."""


class MissingPackageError(RepsimError, ImportError):
    """An optional package is needed; the message is the command that installs it."""

    @classmethod
    def of(cls, package: str, purpose: str, extra: str) -> "MissingPackageError":
        """Builds the error that tells how to install the extra.

        Args:
            package: The distribution that is missing.
            purpose: What it is needed for, as a clause ("to read ONNX files").
            extra: The optional-dependency group of repsim_jax that brings it.

        Returns:
            An error whose message ends in the command to run.
        """
        return cls(f"{package} is needed {purpose}. Install it with: pip install 'repsim_jax[{extra}]'")


class RoundingWarning(UserWarning):
    """A number that was computed, but is no larger than what rounding makes of zero at this dtype."""


class DamageWarning(UserWarning):
    """Results on the disk that are not what was written there, and are computed again."""


class CollapseWarning(UserWarning):
    """A model that gives nearly the same for all examples, of which little can be said."""
