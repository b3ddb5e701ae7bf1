"""Which test examples has the model seen in training, as they are or as near copies?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.curation.duplicates import Duplicates, find_duplicates


class Leaks(NamedTuple):
    """Test examples that are copies of training examples.

    Attributes:
        pairs: (k, 2) row of the training set and row of the test set; every test example that leaked is in one pair.
        similarities: (k,) as in ``Duplicates``; NaN where kind is "group".
        kinds: (k,) as in ``Duplicates``; "group" where both are copies of a third example.
        threshold: As in ``Duplicates``.
        threshold_by: As in ``Duplicates``.
        notes: As in ``Duplicates``.
    """

    pairs: Int[np.ndarray, "k 2"]
    similarities: Float[np.ndarray, " k"]
    kinds: np.ndarray
    threshold: float
    threshold_by: str
    notes: tuple[str, ...]


def leaks(
    train: Float[np.ndarray, "n d"] | None = None,
    test: Float[np.ndarray, "m d"] | None = None,
    *,
    images: tuple[Sequence[Any], Sequence[Any]] | None = None,
    exact_hashes: tuple[Sequence[Any], Sequence[Any]] | None = None,
    threshold: float | None = None,
    false_share: float = 0.05,
) -> Leaks:
    """Finds test examples that are copies of training examples, as ``find_duplicates`` finds copies.

    Args:
        train: Embeddings of the training examples; None compares images alone.
        test: Embeddings of the test examples, of the same encoder.
        images: Those of the training examples and of the test examples.
        exact_hashes: Likewise.
        threshold: As in ``find_duplicates``.
        false_share: As in ``find_duplicates``.

    Returns:
        The leaks, in order of test examples.

    Raises:
        BadArrayError: If one side is missing, or as ``find_duplicates``.
    """
    sides = {"embeddings": (train, test), "images": images or (None, None), "hashes": exact_hashes or (None, None)}
    half = [name for name, both in sides.items() if (both[0] is None) != (both[1] is None)]
    widths = {np.shape(one)[1:] for one in (train, test) if one is not None}
    if half or len(widths) > 1:
        raise BadArrayError(
            f"leaks needs embeddings, images or hashes of both sides, of one encoder: got half of {half}, "
            f"embeddings of widths {sorted(widths)}."
        )
    counts = {len(one) for one, _ in sides.values() if one is not None}
    if len(counts) != 1:
        raise BadArrayError(f"leaks needs something of the same n training examples: got {sorted(counts)}.")
    joined = None if train is None or test is None else np.concatenate([np.asarray(train), np.asarray(test)])
    together = [None if both[0] is None else [*both[0], *both[1]] for both in (sides["images"], sides["hashes"])]
    found = find_duplicates(
        joined, images=together[0], exact_hashes=together[1], threshold=threshold, false_share=false_share
    )
    return _across(found, counts.pop())


def _across(found: Duplicates, n: int) -> Leaks:
    """For each test example in a group with training examples: the most similar one of those it is paired with."""
    direct: dict[int, int] = {}
    for number, (first, second) in enumerate(found.pairs.tolist()):
        if first < n <= second:
            best = direct.get(second)
            if best is None or found.similarities[number] > found.similarities[best]:
                direct[second] = number
    pairs, similarities, kinds = [], [], []
    for group in found.groups:
        inside = group[group < n]
        for row in group[group >= n].tolist() if len(inside) else ():
            number = direct.get(row)
            pairs.append((int(inside[0]) if number is None else int(found.pairs[number, 0]), row - n))
            similarities.append(np.nan if number is None else float(found.similarities[number]))
            kinds.append("group" if number is None else str(found.kinds[number]))
    order = np.argsort([test for _, test in pairs], kind="stable").astype(int)
    made = np.asarray(pairs, np.int64).reshape(-1, 2)[order], np.asarray(similarities, float)[order]
    return Leaks(*made, np.asarray(kinds, "<U10")[order], found.threshold, found.threshold_by, found.notes)
