"""What to do with a collection, once its examples are embedded and scored: copies, leaks, selections."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.influence.curation.appearance import looks
    from repsim_jax.influence.curation.close import ClosePairs, close_pairs
    from repsim_jax.influence.curation.collection import Wish, collection_plan
    from repsim_jax.influence.curation.coresets import Coreset, coreset
    from repsim_jax.influence.curation.densities import density, rare_neighbors
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
    from repsim_jax.influence.curation.pruning import Arm, PruningCurve, probe_accuracy, pruning_curve, views_found
    from repsim_jax.influence.curation.slices import Correlations, SliceTest, slice_test, statistic_correlations
    from repsim_jax.influence.curation.statistics import image_statistics, unusualness
    from repsim_jax.influence.curation.typicality import Quadrants, quadrants, rarity

_HOME = {
    "Arm": "pruning",
    "ClosePairs": "close",
    "Coreset": "coresets",
    "Correlations": "slices",
    "Duplicates": "duplicates",
    "HashPairs": "hashes",
    "Leaks": "leakage",
    "PerceptualHashes": "hashes",
    "PruningCurve": "pruning",
    "Quadrants": "typicality",
    "SliceTest": "slices",
    "Wish": "collection",
    "byte_hashes": "hashes",
    "close_pairs": "close",
    "collection_plan": "collection",
    "content_hashes": "hashes",
    "coreset": "coresets",
    "density": "densities",
    "find_duplicates": "duplicates",
    "hamming_pairs": "hashes",
    "image_statistics": "statistics",
    "leaks": "leakage",
    "looks": "appearance",
    "perceptual_hashes": "hashes",
    "probe_accuracy": "pruning",
    "pruning_curve": "pruning",
    "quadrants": "typicality",
    "rare_neighbors": "densities",
    "rarity": "typicality",
    "slice_test": "slices",
    "statistic_correlations": "slices",
    "to_drop": "groups",
    "unusualness": "statistics",
    "views_found": "pruning",
}
__all__ = [
    "Arm",
    "ClosePairs",
    "Coreset",
    "Correlations",
    "Duplicates",
    "HashPairs",
    "Leaks",
    "PerceptualHashes",
    "PruningCurve",
    "Quadrants",
    "SliceTest",
    "Wish",
    "byte_hashes",
    "close_pairs",
    "collection_plan",
    "content_hashes",
    "coreset",
    "density",
    "find_duplicates",
    "hamming_pairs",
    "image_statistics",
    "leaks",
    "looks",
    "perceptual_hashes",
    "probe_accuracy",
    "pruning_curve",
    "quadrants",
    "rare_neighbors",
    "rarity",
    "slice_test",
    "statistic_correlations",
    "to_drop",
    "unusualness",
    "views_found",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
