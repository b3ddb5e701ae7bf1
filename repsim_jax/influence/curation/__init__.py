"""What to do with a collection, once its examples are embedded and scored: copies, leaks, selections."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.influence.curation.appearance import looks
    from repsim_jax.influence.curation.close import ClosePairs, close_pairs
    from repsim_jax.influence.curation.duplicates import Duplicates, find_duplicates
    from repsim_jax.influence.curation.groups import to_drop
    from repsim_jax.influence.curation.hashes import (
        HashPairs,
        PerceptualHashes,
        byte_hashes,
        content_hashes,
        hamming_pairs,
        perceptual_hashes,
    )
    from repsim_jax.influence.curation.leakage import Leaks, leaks

_HOME = {
    "ClosePairs": "close",
    "Duplicates": "duplicates",
    "HashPairs": "hashes",
    "Leaks": "leakage",
    "PerceptualHashes": "hashes",
    "byte_hashes": "hashes",
    "close_pairs": "close",
    "content_hashes": "hashes",
    "find_duplicates": "duplicates",
    "hamming_pairs": "hashes",
    "leaks": "leakage",
    "looks": "appearance",
    "perceptual_hashes": "hashes",
    "to_drop": "groups",
}
__all__ = [
    "ClosePairs",
    "Duplicates",
    "HashPairs",
    "Leaks",
    "PerceptualHashes",
    "byte_hashes",
    "close_pairs",
    "content_hashes",
    "find_duplicates",
    "hamming_pairs",
    "leaks",
    "looks",
    "perceptual_hashes",
    "to_drop",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
