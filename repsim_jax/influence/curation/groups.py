"""Which pairs make up one group, which of a group's members stays, and is a group one at all?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Int

from repsim_jax.errors import BadArrayError, UnknownNameError

if TYPE_CHECKING:
    from repsim_jax.influence.curation.duplicates import Duplicates

Keep = Literal["central", "hard", "easy", "random", "influence"]
# A group of at least so many members hangs together by chance if fewer than this share of its pairs were found.
_LARGE = 6
_LOOSE = 0.5
# One group with more than this share of all examples is told.
_SWALLOWED = 0.1


def connected(pairs: Int[np.ndarray, "k 2"], n: int) -> tuple[Int[np.ndarray, " g"], ...]:
    """Joins pairs that share members.

    Args:
        pairs: Rows.
        n: Number of rows.

    Returns:
        Rows of each group, ascending; the largest first, then by their first rows.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return ()
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return tuple(sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), int(part[0]))))


def notes_on(
    groups: Sequence[np.ndarray], pairs: np.ndarray, kinds: np.ndarray, n: int, *, few: bool
) -> tuple[str, ...]:
    """What should be looked at before groups are trusted.

    Args:
        groups: From ``connected``.
        pairs: On which they stand.
        kinds: Of the pairs.
        n: Number of rows.
        few: Whether there were too few rows for a threshold.

    Returns:
        A sentence each: too few rows, a group that swallowed much of the data, groups that are chains.
    """
    notes = []
    if few:
        notes.append(f"{n} examples are too few to tell near copies from neighbors: only equal ones were looked for.")
    if groups and len(groups[0]) > max(2, _SWALLOWED * n):
        notes.append(
            f"One group holds {len(groups[0])} of {n} examples. Has the encoder collapsed, or is the threshold too low?"
        )
    loose = sum(_is_chain(group, pairs, kinds) for group in groups if len(group) >= _LARGE)
    if loose:
        notes.append(
            f"{loose} groups are chains: their members are near to some, not to most of the others. Look at them "
            "before any is dropped, or ask for a smaller share of false pairs."
        )
    return tuple(notes)


def _is_chain(group: np.ndarray, pairs: np.ndarray, kinds: np.ndarray) -> bool:
    inside = np.isin(pairs[:, 0], group)
    equal = inside & (kinds == "exact")
    members = len(group) - np.count_nonzero(equal)  # equal examples count once
    found = np.count_nonzero(inside) - np.count_nonzero(equal)
    return bool(members >= _LARGE and found < _LOOSE * members * (members - 1) / 2)


def to_drop(
    duplicates: "Duplicates", *, keep: Keep = "central", self_influence: Float[np.ndarray, " n"] | None = None,
    difficulty: Float[np.ndarray, " n"] | None = None, key: jax.Array | None = None,
) -> Int[np.ndarray, " m"]:  # fmt: skip
    """Which copies can go, so that one of each group stays.

    Args:
        duplicates: From ``find_duplicates``.
        keep: Who stays: "central", the member with the most and the closest pairs; "hard" or "easy", that of the
            largest or smallest difficulty, such as a distance from a center; "influence", that of the smallest
            self-influence, which is the least memorized; "random".
        self_influence: (n,) values, for "influence".
        difficulty: (n,) values, for "hard" and "easy"; None takes the self-influence.
        key: Random key, for "random".

    Returns:
        Rows to drop, ascending.

    Raises:
        BadArrayError: If what ``keep`` needs is missing, or does not belong to these examples.
        UnknownNameError: If there is no such ``keep``.

    Source:
        "hard" and "easy" as in SemDeDup (arXiv 2303.09540), section 3.
    """
    order = _preference(duplicates, keep, self_influence, difficulty, key)
    dropped = [np.delete(group, np.argmin(order[group])) for group in duplicates.groups]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *dropped]))


def _preference(duplicates: "Duplicates", keep: str, self_influence: Any, difficulty: Any, key: Any) -> np.ndarray:
    """For each row a number that is smallest for the member of a group that stays."""
    n = max((int(group[-1]) + 1 for group in duplicates.groups), default=0)
    if keep == "central":
        return -_centrality(duplicates, n)
    if keep == "random":
        if key is None:
            raise BadArrayError('to_drop(keep="random") needs a random key: key=jax.random.key(0).')
        return np.asarray(jax.random.uniform(key, (max(n, 1),)))
    if keep not in ("hard", "easy", "influence"):
        raise UnknownNameError.of("policy of duplicates", str(keep), ("central", "hard", "easy", "random", "influence"))
    values = self_influence if keep == "influence" or difficulty is None else difficulty
    if values is None:
        need = "self_influence" if keep == "influence" else "difficulty, or self_influence"
        raise BadArrayError(f"to_drop(keep={keep!r}) needs {need}: one value for each example.")
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < n or not np.isfinite(values).all():
        raise BadArrayError(
            f"to_drop(keep={keep!r}) needs one finite value for each of {n} or more examples: got {values.shape}."
        )
    return -values if keep == "hard" else values


def _centrality(duplicates: "Duplicates", n: int) -> np.ndarray:
    """Sum of similarities over the pairs of each row; the earlier row where they are equal."""
    central = np.zeros(n)
    for side in (0, 1):
        np.add.at(central, duplicates.pairs[:, side], duplicates.similarities)
    return np.round(central, 6)
