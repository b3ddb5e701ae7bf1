"""Which measure finds what belongs together?  ContraSim's three benchmarks, against closed-form and learned rivals."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.evaluation.contests.captions import captions
    from repsim_jax.evaluation.contests.languages import languages
    from repsim_jax.evaluation.contests.layers import layers
    from repsim_jax.evaluation.contests.standings import Standing

_HOME = {"Standing": "standings", "captions": "captions", "languages": "languages", "layers": "layers"}
__all__ = ["Standing", "captions", "languages", "layers"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
