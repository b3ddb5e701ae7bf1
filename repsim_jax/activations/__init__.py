"""Hidden layers of the models that people have, as arrays in memory or in a store on disk."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from repsim_jax.activations.align import align
from repsim_jax.activations.layers import Layers
from repsim_jax.activations.store import Store, StoreWriter, memory_needed, open_store

if TYPE_CHECKING:
    from repsim_jax.activations.extract import extract
    from repsim_jax.activations.tap import Tap, tap

# These import jax; storing and reading do not need it.
_LAZY = {"extract": "extract", "Tap": "tap", "tap": "tap"}

__all__ = [
    "Layers",
    "Store",
    "StoreWriter",
    "Tap",
    "align",
    "extract",
    "memory_needed",
    "open_store",
    "tap",
]


class _Package(ModuleType):
    """Keeps ``activations.tap`` the function, where Python would bind the submodule of that name over it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _LAZY and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"repsim_jax.activations.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
