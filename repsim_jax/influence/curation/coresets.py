"""Which examples are enough to learn from? Selections without labels, by one name each."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.influence.curation.densities import Rows, Values, checked_rows, checked_values
from repsim_jax.influence.curation.selections import balanced_order, greedy_order, nearest_before
from repsim_jax.linalg import Clusters, center, spherical_kmeans, unit_rows

Method = Literal["random", "sas", "prototypes", "semdedup", "balanced", "influence"]
Preference = Literal["hard", "easy"]
METHODS: tuple[str, ...] = get_args(Method)
# Clusters stand for classes that nobody named.
_CLUSTERS = 10
# SemDeDup compares within clusters; this many examples in each keep that cheap.
_CLUSTER_SIZE = 100


class Coreset(NamedTuple):
    """Examples to keep.

    Attributes:
        kept: (k,) their rows, ascending.
        scores: (n,) by which they were chosen; higher is kept first.
        method: Name of the method.
        options: What was chosen, by name.
    """

    kept: np.ndarray
    scores: np.ndarray
    method: str
    options: dict[str, Any]


def coreset(
    key: jax.Array,
    x: Rows,
    *,
    method: Method,
    keep: float,
    prefer: Preference = "hard",
    num_clusters: int | None = None,
    self_influence: Values | None = None,
    redundant: Int[Array | np.ndarray, " r"] | None = None,
) -> Coreset:
    r"""Selects a share of the examples.

    Args:
        key: Random key; draws clusters, samples and what is tied.
        x: Representations, finite.
        method: "random"; "sas" (in each cluster the examples that are most alike to those left out); "prototypes" (by
            cosine to the center of their cluster); "semdedup" (those without a close example that goes
            before them, in the order of their cosines to the center); "balanced" (as many from each branch of a tree of
            clusters as there are); "influence" (by self-influence).
        keep: Share of the examples, in (0, 1].
        prefer: Of "prototypes", "semdedup" and "influence": "hard" keeps those far from centers, or of high
            self-influence; "easy" the others.
        num_clusters: None is 10, as many as common data sets have classes, or n / 100 for "semdedup".
        self_influence: ``self_influence(...).values``; needed by "influence" alone.
        redundant: Rows that go before any other, such as ``to_drop(duplicates)``.

    Returns:
        The selection.

    Raises:
        BadArrayError: If arrays are not finite or do not fit, or ``keep`` leaves fewer than two examples.
        UnknownNameError: If there is no such method or preference.

    Source:
        Joshi and Mirzasoleiman 2023, arXiv 2302.09195 ("sas"); Sorscher et al. 2022, arXiv 2206.14486 ("prototypes");
        Abbas et al. 2023, arXiv 2303.09540 ("semdedup"); Vo et al. 2024, arXiv 2405.15613 ("balanced").

    Differs:
        "sas" is exact and needs no matrix of all pairs, since sums of cosines are products with a sum of vectors;
        "semdedup" is given the share to keep, not a threshold; "balanced" has two levels, and does not resample.
    """
    x = checked_rows("coreset", x)
    n, kept = len(x), round(keep * len(x)) if np.isfinite(keep) else 0
    _check(method, prefer, keep, kept)
    key_clusters, key_order = jax.random.split(key)
    if method == "influence":
        if self_influence is None:
            raise BadArrayError("coreset(method='influence') needs self_influence=self_influence(...).values.")
        own = checked_values("self_influence", self_influence, n)
        scores = own if prefer == "hard" else -own
    elif method == "random":
        scores = np.asarray(jax.random.uniform(key_order, (n,)), np.float64)
    else:
        default = max(2, n // _CLUSTER_SIZE) if method == "semdedup" else _CLUSTERS
        clusters = min(num_clusters or default, n)
        scores = _clustered(key_clusters, key_order, x, method, kept, prefer, clusters)
    scores = _tied_apart(key_order, scores)
    if redundant is not None and np.size(redundant):
        scores[np.asarray(redundant, int)] -= np.ptp(scores) + 1.0
    rows = np.sort(np.argsort(-scores, kind="stable")[:kept])
    options = {"keep": keep, "prefer": prefer, "num_clusters": num_clusters}
    options |= {"redundant": 0 if redundant is None else int(np.size(redundant))}
    return Coreset(rows, scores, method, options)


def _check(method: str, prefer: str, keep: float, kept: int) -> None:
    if method not in METHODS:
        raise UnknownNameError.of("method", str(method), METHODS)
    if prefer not in get_args(Preference):
        raise UnknownNameError.of("preference", str(prefer), get_args(Preference))
    if not 0 < keep <= 1 or kept < 2:
        raise BadArrayError(f"coreset keeps a share in (0, 1] and at least two examples, got keep={keep}: {kept} rows.")


def _clustered(
    key_clusters: jax.Array, key_order: jax.Array, x: jax.Array, method: str, kept: int, prefer: str, num_clusters: int
) -> Float[np.ndarray, " n"]:
    """Scores of the methods that stand on clusters."""
    rows = unit_rows(center(x))
    found = spherical_kmeans(key_clusters, rows, num_clusters=num_clusters)
    sign = 1.0 if prefer == "hard" else -1.0
    if method == "prototypes":
        return -sign * np.asarray(found.cosines, np.float64)
    if method == "semdedup":
        return -_closest_before(rows, found, sign)
    if method == "sas":
        return _by_cluster(rows, found)
    return -balanced_order(key_order, rows, found, kept).astype(np.float64)


def _members(found: Clusters) -> list[np.ndarray]:
    labels = np.asarray(found.labels)
    groups = [np.flatnonzero(labels == number) for number in range(len(found.centers))]
    return [group for group in groups if len(group)]


def _padded(rows: jax.Array, group: np.ndarray) -> tuple[jax.Array, int]:
    """Rows of a group, filled by zeros up to a power of two, so that few sizes are compiled."""
    size = 1 << max(0, len(group) - 1).bit_length()
    return jnp.zeros((size, rows.shape[1]), rows.dtype).at[: len(group)].set(rows[group]), len(group)


def _closest_before(rows: jax.Array, found: Clusters, sign: float) -> Float[np.ndarray, " n"]:
    """The cosine to the nearest example of the same cluster that is kept before, by its cosine to the center."""
    closest = np.full(len(rows), -1.0)
    cosines = np.asarray(found.cosines)
    for group in _members(found):
        ordered = group[np.argsort(sign * cosines[group], kind="stable")]
        padded, count = _padded(rows, ordered)
        closest[ordered] = np.asarray(nearest_before(padded))[:count]
    return closest


def _by_cluster(rows: jax.Array, found: Clusters) -> Float[np.ndarray, " n"]:
    """Each cluster gives the same share of its examples, in the order in which they are chosen."""
    scores = np.zeros(len(rows))
    for group in _members(found):
        padded, count = _padded(rows, group)
        order = np.asarray(greedy_order(padded, count))[:count]
        scores[group[order]] = -(np.arange(count) + 0.5) / count
    return scores


def _tied_apart(key: jax.Array, scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks as scores, in which ties are broken at random and not by the order of the rows."""
    shuffled = np.asarray(jax.random.permutation(key, len(scores)))
    ranks = np.empty(len(scores))
    ranks[shuffled[np.argsort(scores[shuffled], kind="stable")]] = np.arange(len(scores))
    return ranks
