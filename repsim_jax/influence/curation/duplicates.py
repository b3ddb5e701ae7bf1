"""Which examples are copies of each other? The same pixels, the same look, or the same to an encoder.

Nobody says how near is too near: what a copy is follows from the examples themselves (``gaps``), or from a cosine that
is given. Abbas et al. 2023, "SemDeDup" (arXiv 2303.09540), for copies by embedding, with a cosine that was chosen by
hand.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.curation.appearance import looks
from repsim_jax.influence.curation.close import close_pairs
from repsim_jax.influence.curation.gaps import FEWEST_ROWS, GapPairs, gap_pairs, largest_p_value, num_neighbors
from repsim_jax.influence.curation.groups import connected, notes_on
from repsim_jax.influence.curation.hashes import content_hashes, same_hashes
from repsim_jax.linalg import nearest_by_views

Kind = Literal["exact", "perceptual", "embedding"]


class Duplicates(NamedTuple):
    """Examples that are copies of each other.

    Attributes:
        groups: Rows of each group of copies, ascending; the largest group first.
        pairs: (k, 2) on which groups stand, the lower row first. Of equal examples only the pairs with the first of
            them are listed.
        similarities: (k,) cosine of the embeddings, or of the looks where there are no embeddings; 1 for equal ones.
        kinds: (k,) "exact", "perceptual" or "embedding": the first of these by which the pair was found.
        p_values: (k,) how improbable the pair is between examples that are no copies; 0 where equality or a given
            threshold decided.
        threshold: The cosine that was given; otherwise the largest p-value that was taken.
        threshold_by: How it was chosen.
        undefined: Rows that have no direction (a zero embedding) or no contrast, and were compared for equality alone.
        notes: What one should know before trusting the groups.
    """

    groups: tuple[Int[np.ndarray, " g"], ...]
    pairs: Int[np.ndarray, "k 2"]
    similarities: Float[np.ndarray, " k"]
    kinds: np.ndarray
    p_values: Float[np.ndarray, " k"]
    threshold: float
    threshold_by: str
    undefined: Int[np.ndarray, " u"]
    notes: tuple[str, ...]


class _Found(NamedTuple):
    """Pairs of one kind, with numbers of the rows that were compared."""

    kind: Kind
    pairs: np.ndarray
    p_values: np.ndarray


def find_duplicates(
    embeddings: Float[np.ndarray, "n d"] | None = None,
    *,
    images: Sequence[Any] | None = None,
    exact_hashes: Sequence[Any] | np.ndarray | None = None,
    threshold: float | None = None,
    false_share: float = 0.05,
) -> Duplicates:
    """Groups examples that are copies of each other, by all that is known of them.

    Equal pixels (or hashes) are copies. Of the others, those are copies whose looks (``looks``; needs images) or whose
    embeddings are nearer to each other than chance has it among their neighbors: the threshold keeps the expected share
    of false pairs below ``false_share``, without any label or any cosine chosen by hand. Looks tell copies of other
    quality, size, colors and contrast, and most crops; an encoder tells what it was trained to overlook.

    The rule compares all with all: n^2 products, block by block. A given threshold looks at few of the pairs of
    embeddings (``close_pairs``), and misses none.

    Args:
        embeddings: (n, d), finite; any floating-point dtype. None compares images alone.
        images: (n, h, w), (n, h, w, 3), or a sequence of arrays or PIL images, whose sizes may differ.
        exact_hashes: One for each example, from ``content_hashes`` or ``byte_hashes``; None hashes the images.
        threshold: Cosine of embeddings at and above which a pair counts as copies, instead of the rule; looks and
            hashes are used as before.
        false_share: Expected share of false pairs among those found by looks and embeddings, in (0, 1).

    Returns:
        Groups, and the pairs on which they stand.

    Raises:
        BadArrayError: If nothing is given, counts differ, numbers are NaN or infinite, or an option is out of range.
        MissingPackageError: If images are given and Pillow is not installed.

    Source:
        The rule is ours; see ``gaps`` for what it stands on, and benchmarks/results/influence_duplicates.json.
    """
    embeddings, n = _checked(embeddings, images, exact_hashes, threshold, false_share)
    if exact_hashes is None and images is not None:
        exact_hashes = content_hashes(images)
    exact = [] if exact_hashes is None else same_hashes(exact_hashes)
    views = None if images is None else looks(images)
    unit, zero = (None, np.zeros(n, bool)) if embeddings is None else _unit(embeddings)
    blank = np.zeros(n, bool) if views is None else np.asarray(~views[:, 0].any(1))
    found = [_Found("exact", *_stars(exact))]
    if unit is not None:
        once = _first_rows(n, exact)
        equal = [once[~zero[once]][group] for group in same_hashes(_rows_as_bytes(unit[once[~zero[once]]]))]
        found.append(_Found("embedding", *_stars(equal)))
        exact = [*exact, *equal]
    once, undefined = _first_rows(n, exact), np.flatnonzero(zero | blank)
    tried = _by_gaps(once, {"perceptual": (views, blank), "embedding": (unit if threshold is None else None, zero)})
    found += _significant(tried, len(once), false_share)
    if unit is not None and threshold is not None:
        rows = once[~zero[once]]
        pairs = rows[close_pairs(unit[rows], threshold).pairs]
        found.append(_Found("embedding", pairs, np.zeros(len(pairs))))
    return _gathered(found, n, unit, views, undefined, threshold, false_share, tried)


def _checked(
    embeddings: Any, images: Any, hashes: Any, threshold: float | None, false_share: float
) -> tuple[np.ndarray | None, int]:
    counts = {
        name: len(one)
        for name, one in (("embeddings", embeddings), ("images", images), ("exact_hashes", hashes))
        if one is not None
    }
    if len(set(counts.values())) != 1 or not min(counts.values()):
        told = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        raise BadArrayError(
            f"find_duplicates needs embeddings, images or hashes of the same n >= 1 examples: got {told}."
        )
    if not 0 < false_share < 1 or (threshold is not None and not (-1 <= threshold <= 1 and embeddings is not None)):
        raise BadArrayError(
            "find_duplicates needs false_share between 0 and 1, and a threshold that is a cosine of embeddings: got "
            f"false_share={false_share}, threshold={threshold}, {'no ' if embeddings is None else ''}embeddings."
        )
    if embeddings is not None:
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
            raise BadArrayError(
                f"find_duplicates takes floating-point embeddings (n, d): got {embeddings.dtype} {embeddings.shape}."
            )
        bad = np.flatnonzero(~np.isfinite(embeddings).all(1))
        if bad.size:
            raise BadArrayError(
                f"find_duplicates: {bad.size} embeddings hold NaN or infinity, the first is row {bad[0]}. "
                "Leave them out."
            )
    return embeddings, next(iter(counts.values()))


def _unit(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length one in float32, and which ones were zero; float16 must not overflow on the way."""
    rows = embeddings.astype(np.float64) if embeddings.dtype != np.float32 else embeddings
    largest = np.abs(rows).max(1, keepdims=True, initial=0)
    rows = rows / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32), lengths[:, 0] == 0


def _rows_as_bytes(rows: np.ndarray) -> np.ndarray:
    rows = np.ascontiguousarray(rows + np.float32(0))  # -0 becomes 0
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]


def _stars(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of each group's first row with the others."""
    pairs = [np.stack([np.full(len(group) - 1, group[0]), group[1:]], axis=1) for group in groups]
    joined = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    return joined, np.zeros(len(joined))


def _first_rows(n: int, groups: Sequence[np.ndarray]) -> np.ndarray:
    """All rows but the later ones of groups: of twenty equal neighbors no gap is seen."""
    kept = np.ones(n, bool)
    for group in groups:
        kept[group[1:]] = False
    return np.flatnonzero(kept)


def _by_gaps(once: np.ndarray, descriptions: dict[Kind, tuple[np.ndarray | None, np.ndarray]]) -> dict[Kind, GapPairs]:
    """For each description of examples: pairs of rows, with p-values."""
    tried: dict[Kind, GapPairs] = {}
    for kind, (described, undefined) in descriptions.items():
        if described is None:
            continue
        rows = once[~undefined[once]]
        if len(rows) >= FEWEST_ROWS:
            views = described[rows].reshape(len(rows), -1, described.shape[-1])
            nearest = nearest_by_views(jnp.asarray(views), k=num_neighbors(len(rows)))
            pairs = gap_pairs(np.asarray(nearest.rows), np.asarray(nearest.distances))
            tried[kind] = pairs._replace(pairs=rows[pairs.pairs])
    return tried


def _significant(tried: dict[Kind, GapPairs], tests: int, false_share: float) -> list[_Found]:
    """What is taken; a pair may pass by either description, for which its chance counts as often."""
    if not tried:
        return []
    pairs = np.concatenate([one.pairs for one in tried.values()])
    values = len(tried) * np.concatenate([one.p_values for one in tried.values()])
    order = np.lexsort((values, pairs[:, 1], pairs[:, 0]))
    fresh = np.ones(len(order), bool)  # the smaller value of a pair that both descriptions have
    fresh[1:] = (pairs[order][1:] != pairs[order][:-1]).any(1)
    cut = largest_p_value(values[order][fresh], tests=tests, false_share=false_share)
    found = []
    for kind, one in tried.items():
        taken = one.p_values * len(tried) <= cut
        found.append(_Found(kind, one.pairs[taken], one.p_values[taken] * len(tried)))
    return found


def _gathered(
    found: Sequence[_Found], n: int, unit: np.ndarray | None, views: np.ndarray | None, undefined: np.ndarray,
    threshold: float | None, false_share: float, tried: dict[Kind, GapPairs],
) -> Duplicates:  # fmt: skip
    pairs = np.concatenate([one.pairs for one in found])
    kinds = np.concatenate([np.full(len(one.pairs), one.kind, "<U10") for one in found])
    p_values = np.concatenate([one.p_values for one in found])
    rank = np.asarray([("exact", "perceptual", "embedding").index(kind) for kind in kinds], np.int64)
    order = np.lexsort((rank, pairs[:, 1], pairs[:, 0]))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (pairs[order][1:] != pairs[order][:-1]).any(1)
    pairs, kinds, p_values = pairs[order][fresh], kinds[order][fresh], p_values[order][fresh]
    groups = connected(pairs, n)
    cut = float(threshold) if threshold is not None else float(p_values.max(initial=0))
    notes = notes_on(groups, pairs, kinds, n, few=n < FEWEST_ROWS and threshold is None)
    how = _told(threshold, false_share, tuple(tried))
    return Duplicates(
        groups, pairs, _similarities(pairs, kinds, unit, views), kinds, p_values, cut, how, undefined, notes
    )


def _similarities(pairs: np.ndarray, kinds: np.ndarray, unit: Any, views: Any) -> np.ndarray:
    described = unit if unit is not None else None if views is None else views[:, 0]
    if described is None:
        return np.ones(len(pairs))
    cosines = np.einsum("kd,kd->k", described[pairs[:, 0]], described[pairs[:, 1]])
    return np.where(kinds == "exact", 1.0, cosines)


def _told(threshold: float | None, false_share: float, tried: tuple[str, ...]) -> str:
    rule = f"gaps between distances to neighbors, false share {false_share:g}" if tried else "equality alone"
    if threshold is not None:
        return f"cosine {threshold:g}, given" + (f"; looks by {rule}" if tried else "")
    return rule + (f" ({' and '.join(tried)})" if tried else "")
