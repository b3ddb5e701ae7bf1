"""Which examples are typical, redundant, memorized, or without effect? Density and influence, side by side.

Neither of both finds rare and broken examples alone: a blank image is far from all others and changes nothing; a
typical one can be memorized.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.curation.densities import Values, checked_values

Name = Literal["prototype", "redundant", "memorized", "singular", "inert"]
MEANINGS: dict[str, str] = {
    "prototype": "dense and of high self-influence: typical, and of more weight than its neighbors",
    "redundant": "dense and of low self-influence: others say the same",
    "memorized": "sparse and of high self-influence: the model holds it by itself",
    "singular": "sparse and of high self-influence: training on it would move its own representation most",
    "inert": "sparse and of low self-influence: blank, noisy or otherwise without effect; look whether it is broken",
}


class Quadrants(NamedTuple):
    """Examples by density and influence.

    Attributes:
        names: (n,) of "prototype", "redundant", "memorized" (or "singular") or "inert"; ``MEANINGS`` says what they
            are.
        density_cut: Above it an example is sparse.
        influence_cut: Above it its influence is high.
    """

    names: np.ndarray
    density_cut: float
    influence_cut: float


def quadrants(
    density: Values, self_influence: Values, *, sparse: float = 0.5, high: float = 0.5, trained: bool = True
) -> Quadrants:
    """Divides examples by density and by self-influence.

    Args:
        density: From ``density``; higher is sparser.
        self_influence: ``self_influence(...).values``.
        sparse: The share of examples that count as sparse, in (0, 1).
        high: The share whose influence counts as high, in (0, 1).
        trained: Whether the model was trained on these examples. What it was not trained on it cannot have memorized:
            where that is not known, such examples are "singular".

    Returns:
        A name for each example.

    Raises:
        BadArrayError: If values are not finite or of different numbers, or a share is out of range.
    """
    n = np.size(density)
    lonely, own = checked_values("density", density, n), checked_values("self_influence", self_influence, n)
    if not (0 < sparse < 1 and 0 < high < 1):
        raise BadArrayError(f"quadrants needs shares in (0, 1), got sparse={sparse}, high={high}.")
    cuts = float(np.quantile(lonely, 1 - sparse)), float(np.quantile(own, 1 - high))
    is_sparse, is_high = lonely > cuts[0], own > cuts[1]
    alone = "memorized" if trained else "singular"
    names = np.where(is_sparse, np.where(is_high, alone, "inert"), np.where(is_high, "prototype", "redundant"))
    return Quadrants(names, *cuts)


def rarity(density: Values, self_influence: Values, unusualness: Values | None = None) -> Float[np.ndarray, " n"]:
    r"""How rare or broken an example is, by all that is known of it.

    The sum of :math:`-\log` of its ranks from above: how many examples are as sparse or sparser, as unusual in their
    pixels, and as far from the median self-influence, to either side. (Rare examples that are learned have a high one,
    blank and noisy ones a low one: its sign says nothing.) Ranks make scales meet, and the sum lets one strong sign
    speak where the others are silent.

    Args:
        density: From ``density``, as a rule of ``rare_neighbors(n)`` neighbors; higher is sparser.
        self_influence: ``self_influence(...).values``.
        unusualness: From ``unusualness``; None for examples that are no images.

    Returns:
        (n,) >= 0; higher is rarer.

    Raises:
        BadArrayError: If values are not finite or of different numbers.

    Source:
        Fisher's method of combining tail probabilities.
    """
    n = np.size(density)
    own = checked_values("self_influence", self_influence, n)
    parts = [checked_values("density", density, n), _from_middle(own)]
    if unusualness is not None:
        parts.append(checked_values("unusualness", unusualness, n))
    return sum((_surprise(part) for part in parts), np.zeros(n))


def _from_middle(values: np.ndarray) -> np.ndarray:
    """Distance to the median in ranks, so that both tails are as long."""
    return np.abs(_ranks(values) - (len(values) + 1) / 2)


def _surprise(values: np.ndarray) -> np.ndarray:
    n = len(values)
    return -np.log((n + 1 - _ranks(values)) / n)


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal values share their mean rank."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2
