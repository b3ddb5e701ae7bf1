"""Kernels of networks, finite or infinitely wide: neural tangent kernels (NTK) and Gaussian-process kernels (NNGP)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.kernels.analytic import Kernels, convnet_kernels, mlp_kernels

_HOME = {
    "Kernels": "analytic",
    "convnet_kernels": "analytic",
    "mlp_kernels": "analytic",
}
__all__ = ["Kernels", "convnet_kernels", "mlp_kernels"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
