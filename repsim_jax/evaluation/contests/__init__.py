"""Which measure finds what belongs together?  ContraSim's three benchmarks, against closed-form and learned rivals."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.evaluation.contests.captions import caption_contest
    from repsim_jax.evaluation.contests.languages import language_contest
    from repsim_jax.evaluation.contests.layers import layer_contest
    from repsim_jax.evaluation.contests.standings import Standing

_HOME = {
    "Standing": "standings",
    "caption_contest": "captions",
    "language_contest": "languages",
    "layer_contest": "layers",
}
__all__ = ["Standing", "caption_contest", "language_contest", "layer_contest"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
