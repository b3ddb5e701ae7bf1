"""How alike are networks that differ in nothing but their seed? Trains such populations and stores their layers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.evaluation.populations.images import ImageRecipe, image_networks
    from repsim_jax.evaluation.populations.language import LanguageRecipe, language_models

# These import flax and optax; reading a population's stores does not need them.
_HOME = {
    "ImageRecipe": "images",
    "LanguageRecipe": "language",
    "image_networks": "images",
    "language_models": "language",
}

__all__ = ["ImageRecipe", "LanguageRecipe", "image_networks", "language_models"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
