"""What should be gathered more of? Kinds of examples that are few, unstable, and on which the model leans."""

from typing import NamedTuple

import jax
import numpy as np

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.curation.densities import Rows, Values, checked_rows, checked_values
from repsim_jax.linalg import center, spherical_kmeans

# About as many examples in a kind of examples as one can look at.
_KIND_SIZE = 50
_SHOWN = 5
# A kind is told to stand out in a number if it is among this share of kinds.
_OUTSTANDING = 0.25


class Wish(NamedTuple):
    """One kind of examples.

    Attributes:
        cluster: Its number.
        rows: Its examples, the most typical ones first.
        shown: A few of them, typical ones first.
        share: Of all examples.
        density: Mean of its examples; higher is sparser.
        instability: Mean of its examples, or None; higher is less stable.
        self_influence: Mean of its examples.
        priority: Mean of its ranks among all kinds by the numbers above, in [0, 1]; higher asks for more.
        reasons: What stands out, in words.
    """

    cluster: int
    rows: np.ndarray
    shown: np.ndarray
    share: float
    density: float
    instability: float | None
    self_influence: float
    priority: float
    reasons: tuple[str, ...]


def collection_plan(
    key: jax.Array,
    x: Rows,
    density: Values,
    self_influence: Values,
    *,
    instability: Values | None = None,
    num_clusters: int | None = None,
    most: int = 10,
) -> tuple[Wish, ...]:
    """Ranks kinds of examples (clusters of representations) by how much more of them would teach.

    A kind is wanted if it is sparse, if the model leans on its single examples (high self-influence), and if its
    representations are unstable under augmentation. Blank and noisy kinds are sparse but of low self-influence, and
    rank lower. The plan is a proposal for a person to look at; whether new data help is known after training with them.

    Args:
        key: Random key of the clusters.
        x: Representations.
        density: From ``density``.
        self_influence: ``self_influence(...).values``.
        instability: ``self_influence(...).measurements`` of the stability: mean distance of views.
        num_clusters: Kinds; None is n / 50, at least 2.
        most: Kinds in the plan.

    Returns:
        Kinds, the most wanted first.

    Raises:
        BadArrayError: If arrays are not finite or do not fit, or there are fewer than two clusters.
    """
    x = checked_rows("collection_plan", x)
    n = len(x)
    count = max(2, n // _KIND_SIZE) if num_clusters is None else num_clusters
    if not 2 <= count <= n or most < 1:
        raise BadArrayError(f"collection_plan needs num_clusters in [2, n={n}] and most >= 1, got {count}, {most}.")
    numbers = {"sparse": checked_values("density", density, n)}
    if instability is not None:
        numbers["unstable under augmentation"] = checked_values("instability", instability, n)
    numbers["influential"] = checked_values("self_influence", self_influence, n)
    found = spherical_kmeans(key, center(x), num_clusters=count)
    labels, cosines = np.asarray(found.labels), np.asarray(found.cosines)
    kinds = np.unique(labels)
    rows = [group[np.argsort(-cosines[group], kind="stable")] for group in (np.flatnonzero(labels == k) for k in kinds)]
    means = {name: np.asarray([values[group].mean() for group in rows]) for name, values in numbers.items()}
    ranks = {name: np.argsort(np.argsort(values)) / max(1, len(kinds) - 1) for name, values in means.items()}
    priority = np.mean(list(ranks.values()), axis=0)
    return tuple(_wish(place, int(kinds[place]), rows[place], n, means, ranks, float(priority[place]))
                 for place in np.argsort(-priority, kind="stable")[:most])  # fmt: skip


def _wish(
    place: int, cluster: int, rows: np.ndarray, n: int, means: dict[str, np.ndarray], ranks: dict[str, np.ndarray],
    priority: float,
) -> Wish:  # fmt: skip
    share = len(rows) / n
    reasons = [f"{share:.1%} of the examples"]
    for name, each in ranks.items():
        if each[place] >= 1 - _OUTSTANDING:
            reasons.append(f"more {name} than {each[place]:.0%} of kinds")
    unstable = means.get("unstable under augmentation")
    instability = None if unstable is None else float(unstable[place])
    own = float(means["influential"][place])
    lonely = float(means["sparse"][place])
    return Wish(cluster, rows, rows[:_SHOWN], share, lonely, instability, own, priority, tuple(reasons))
