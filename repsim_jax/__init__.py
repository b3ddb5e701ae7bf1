"""repsim_jax looks inside neural representations: what they are, how alike two of them are, and what made them.

Subpackages load on first use, so that ``import repsim_jax`` costs nothing:

>>> import repsim_jax
>>> repsim_jax.similarity.linear_cka  # doctest: +ELLIPSIS
<function linear_cka at ...>
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "activations",
    "canonicalization",
    "data",
    "encoders",
    "errors",
    "evaluation",
    "influence",
    "kernels",
    "linalg",
    "losses",
    "pretrained",
    "report",
    "similarity",
    "training",
]

if TYPE_CHECKING:
    from repsim_jax import activations as activations
    from repsim_jax import canonicalization as canonicalization
    from repsim_jax import data as data
    from repsim_jax import encoders as encoders
    from repsim_jax import errors as errors
    from repsim_jax import evaluation as evaluation
    from repsim_jax import influence as influence
    from repsim_jax import kernels as kernels
    from repsim_jax import linalg as linalg
    from repsim_jax import losses as losses
    from repsim_jax import pretrained as pretrained
    from repsim_jax import report as report
    from repsim_jax import similarity as similarity
    from repsim_jax import training as training


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"repsim_jax.{name}")
    raise AttributeError(f"module 'repsim_jax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
