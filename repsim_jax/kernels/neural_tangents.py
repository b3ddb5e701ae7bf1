"""Loads neural-tangents, which is unmaintained, on the JAX of today: without TensorFlow, and leaving JAX as it was.

Novak et al. 2020, "Neural Tangents: Fast and Easy Infinite Neural Networks in Python" (arXiv 1912.02803). Its last
release, 0.6.5 of 2023, imports names that JAX has moved or dropped since, and TensorFlow for one of its subpackages.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from repsim_jax._compat import internals
from repsim_jax.errors import MissingPackageError

# The patches replace functions of this very release.
VERSION = "0.6.5"
_NAME = "neural_tangents"
# Imports TensorFlow; neural-tangents loads it first, though nothing else in there needs it.
_WITH_TENSORFLOW = f"{_NAME}.experimental"
# What it imports, itself included; TensorFlow, which it declares too, it does not need.
NEEDED = (_NAME, "frozendict", "scipy")


@functools.cache
def load() -> ModuleType:
    """Imports neural-tangents and mends it privately: what is patched are its modules, never those of JAX.

    ``load().experimental`` is left out: it needs TensorFlow.

    Returns:
        The module ``neural_tangents``, as ``import neural_tangents`` would give it; the same one at every call.

    Raises:
        MissingPackageError: If neural-tangents, or a package that it needs, is missing or of another version.

    Source:
        neural-tangents 0.6.5.

    Differs:
        ``stax``, ``predict``, ``batch`` and ``linearize`` are as released. The structured derivatives of the empirical
        NTK are rebuilt on ``jax.linearize`` and ``jax.linear_transpose``.
    """
    for name in NEEDED:
        if _is_missing(name):
            raise _missing(f"the package {name} is not installed")
    version = importlib.metadata.version("neural-tangents")
    if version != VERSION:
        raise _missing(f"version {version} is installed")
    if _NAME in sys.modules:
        module = sys.modules[_NAME]
    else:
        with _lent_names():
            module = importlib.import_module(_NAME)
    from repsim_jax.kernels import _neural_tangents_patches as patches

    patches.apply()
    return module


def _is_missing(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is None
    return importlib.util.find_spec(name) is None


def _missing(what: str) -> MissingPackageError:
    return MissingPackageError(
        f"neural-tangents {VERSION} is needed for this, but {what}. "
        f"Install it with: pip install --no-deps neural-tangents=={VERSION} frozendict && pip install scipy "
        "(without --no-deps it brings TensorFlow, which nothing here uses)."
    )


@contextmanager
def _lent_names() -> Iterator[None]:
    """Gives JAX the names that neural-tangents imports, for the length of that import."""
    jax_names = internals()
    # What an import that failed earlier has left of it.
    for name in [name for name in sys.modules if name.startswith(f"{_NAME}.")]:
        del sys.modules[name]
    borrowed = [(jax_names.core, name, value) for name, value in jax_names.lent_to_core.items()]
    # The key of a rule for a primitive that no program holds any more.
    borrowed.append((jax_names.ad, "zeros_like_p", jax_names.lent_to_core["Primitive"]("zeros_like_before_2025")))
    stand_ins = {"jax.util": _jax_util(), _WITH_TENSORFLOW: ModuleType(_WITH_TENSORFLOW)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lent = [(owner, name) for owner, name, value in borrowed if _lend(owner, name, value)]
        before = {name: sys.modules.get(name) for name in stand_ins}
        sys.modules.update(stand_ins)
        try:
            yield
        finally:
            for owner, name in lent:
                delattr(owner, name)
            _restore(before)


def _lend(owner: ModuleType, name: str, value: Any) -> bool:
    """Whether the name was missing, and was set."""
    if hasattr(owner, name):
        return False
    setattr(owner, name, value)
    return True


def _restore(before: dict[str, ModuleType | None]) -> None:
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module
    if _NAME in sys.modules:
        vars(sys.modules[_NAME]).pop(_WITH_TENSORFLOW.rpartition(".")[2], None)


def _jax_util() -> ModuleType:
    """The two functions of the former ``jax.util``: ``map`` and ``zip`` into lists, of arguments of one length."""

    def safe_map(function: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
        return [function(*row) for row in safe_zip(*columns)]

    def safe_zip(*columns: Iterable[Any]) -> list[tuple[Any, ...]]:
        return list(zip(*columns, strict=True))

    module = ModuleType("jax.util")
    module.safe_map, module.safe_zip = safe_map, safe_zip  # pyright: ignore[reportAttributeAccessIssue]
    return module
