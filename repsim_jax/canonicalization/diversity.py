"""Are there enough data, and do they show enough poses? What a canonicalizer chooses on training and test inputs.

Who trains a canonicalizer is told to check two things: the diversity of the training data, and the time it takes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from repsim_jax.canonicalization.canonicalizers import Canonicalizer, checked, orbit_views, shown
from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import nearest_rows, unit_rows

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
# Of the distance of a pixel from the mean: turned inputs that differ by less look the same to a person.
_SAME_LOOK = 0.1
# Of the usual spread of energies over an orbit: less is no reason to choose one pose over another.
_SAME_ENERGY = 0.05
# Correlation of the pixels of canonical forms. Copies of other brightness have 1; of 1,200 digits, all of which are
# different, 2 in 100 have a neighbor above 0.98 and none above this.
_COPY = 0.99
# Rows that are compared with each other, so that a page is not waited for.
_MOST_COMPARED = 4096
_BATCH = 256
_PARTS = (4, 2, 1)


class Poses(NamedTuple):
    """What a canonicalizer chose on n inputs.

    Attributes:
        counts: (g,), how often each element was chosen.
        entropy: Of the chosen elements, over that of even ones: 0 where all inputs have one pose, 1 where all poses are
            as frequent.
        coverage: Share of the elements that were chosen at all.
        identity_rate: Share of the inputs that are left as they are.
        margins: Quantiles of the margin, at ``QUANTILES``.
        symmetric: Share of the inputs that look the same in another pose and have its energy, so that no choice is
            right.
    """

    counts: Int[np.ndarray, " g"]
    entropy: float
    coverage: float
    identity_rate: float
    margins: Float[np.ndarray, " q"]
    symmetric: float

    @property
    def num(self) -> int:
        """Inputs."""
        return int(self.counts.sum())

    @property
    def median_margin(self) -> float:
        """Half of the inputs have less."""
        return float(self.margins[QUANTILES.index(0.5)])


class Curve(NamedTuple):
    """How a fit fares with parts of the data.

    Attributes:
        sizes: n/4, n/2 and n.
        scores: What was measured of each, the higher the better.
        next_score: What twice the data would give: gains go on shrinking as they did, or stay where they did not.
    """

    sizes: tuple[int, ...]
    scores: tuple[float, ...]
    next_score: float

    @property
    def per_doubling(self) -> float:
        """What twice the data would add."""
        return self.next_score - self.scores[-1]


class Diversity(NamedTuple):
    """What is known of the data of a canonicalizer.

    Attributes:
        group: Name of the group.
        train: Of the training inputs.
        test: Of the test inputs; None without.
        shift: Jensen-Shannon divergence of the chosen elements of both, in bits: 0 alike, 1 nothing in common.
        copies: Share of the training inputs with a near copy among them, in whatever pose.
        curve: Of training with parts of the data; None where nothing was trained again.
    """

    group: str
    train: Poses
    test: Poses | None
    shift: float | None
    copies: float
    curve: Curve | None


def diversity_audit(
    key: jax.Array,
    canonicalizer: Canonicalizer,
    train: Float[Array, "n *shape"] | np.ndarray,
    test: Float[Array, "m *shape"] | np.ndarray | None = None,
    *,
    refit: Callable[[np.ndarray], float] | None = None,
) -> Diversity:
    """Looks at which poses are chosen, how surely, and whether more data would help.

    Args:
        key: Random key; draws the parts of the learning curve, each within the next.
        canonicalizer: Trained on the training inputs.
        train: Those.
        test: Inputs that it has not seen.
        refit: ``refit(rows)`` trains on those rows of ``train`` and gives a score, the higher the better, such as the
            identity rate of upright inputs that are held out. None: no learning curve.

    Returns:
        All of it.

    Raises:
        BadArrayError: If inputs do not fit, or a curve is asked of fewer than 8 of them.
    """
    first, forms = _poses(canonicalizer, train)
    second = None if test is None else _poses(canonicalizer, test)[0]
    shift = None if second is None else jensen_shannon(first.counts, second.counts)
    curve = None if refit is None else _curve(key, first.num, refit)
    return Diversity(canonicalizer.group.name, first, second, shift, _copies(forms), curve)


def _poses(canonicalizer: Canonicalizer, x: Any) -> tuple[Poses, np.ndarray]:
    """What was chosen, and the canonical forms as the energy sees them."""
    x = checked(canonicalizer, x)
    size = min(_BATCH, len(x))
    rows = (np.arange(-(-len(x) // size) * size) % len(x)).reshape(-1, size)
    parts = [jax.tree.map(np.asarray, _look(canonicalizer, x[part])) for part in rows]
    index, margins, energies, distances, forms = (np.concatenate(one)[: len(x)] for one in zip(*parts, strict=True))
    group = canonicalizer.group
    counts = np.bincount(index, minlength=group.order)
    symmetric = _symmetric(group, index, energies, distances)
    quantiles = np.quantile(margins, QUANTILES) if group.order > 1 else np.full(len(QUANTILES), np.inf)
    return Poses(
        counts, entropy_of(counts), float((counts > 0).mean()), float(counts[0] / len(x)), quantiles,
        float(symmetric.mean()),
    ), forms  # fmt: skip


@jax.jit
def _look(canonicalizer: Canonicalizer, x: jax.Array) -> tuple[jax.Array, ...]:
    found = canonicalizer(x)
    group, seen = canonicalizer.group, shown(canonicalizer, x)
    views = orbit_views(canonicalizer, group, seen).reshape(group.order, len(x), -1)
    spread = jnp.linalg.norm(views[0] - views[0].mean(-1, keepdims=True), axis=-1)
    # the view by an element's inverse: of a self-symmetric input, equal all the same
    distances = jnp.linalg.norm(views - views[0], axis=-1) / jnp.maximum(spread, 1e-12)
    forms = shown(canonicalizer, found.canonical).reshape(len(x), -1)
    return found.elements.index, found.margin, found.energies, distances.T, forms


def _symmetric(group: Any, index: np.ndarray, energies: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Whether some element other than the identity changes neither the look nor the least energy."""
    finite = np.where(np.isfinite(energies), energies, np.nan)
    usual = float(np.median(np.nanmax(finite, 1) - np.nanmin(finite, 1)))
    moved = np.asarray(group.table)[:, index].T
    rows = np.arange(len(index))[:, None]
    gaps = np.where(moved >= 0, energies[rows, moved] - energies[rows, index[:, None]], np.inf)
    same = (distances <= _SAME_LOOK) & (np.abs(gaps) <= _SAME_ENERGY * usual + 1e-12)
    return np.asarray(same[:, 1:].any(1))


def _copies(forms: np.ndarray) -> float:
    """Of canonical forms, so that a turned copy is one too."""
    rows = forms[:_MOST_COMPARED] - forms[:_MOST_COMPARED].mean(1, keepdims=True)
    if len(rows) < 3:
        return 0.0
    unit = np.asarray(unit_rows(jnp.asarray(rows)))
    nearest = np.asarray(nearest_rows(jnp.asarray(unit), k=1))[:, 0]
    return float(((unit * unit[nearest]).sum(-1) >= _COPY).mean())


def entropy_of(counts: Int[np.ndarray, " g"]) -> float:
    """Entropy of a histogram over that of an even one.

    Args:
        counts: How often each element was chosen.

    Returns:
        In [0, 1]; 0 for a group of one element.
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts))) + 0.0 if len(counts) > 1 else 0.0


def jensen_shannon(left: Int[np.ndarray, " g"], right: Int[np.ndarray, " g"]) -> float:
    r"""How much two histograms differ: :math:`H(\tfrac{p + q}{2}) - \tfrac12 H(p) - \tfrac12 H(q)`.

    Args:
        left: Counts.
        right: Counts of the same elements.

    Returns:
        Bits in [0, 1].

    Source:
        Lin 1991, IEEE Transactions on Information Theory 37(1).
    """

    def bits(shares: np.ndarray) -> float:
        shares = shares[shares > 0]
        return float(-(shares * np.log2(shares)).sum())

    p, q = left / left.sum(), right / right.sum()
    return max(0.0, bits((p + q) / 2) - bits(p) / 2 - bits(q) / 2)


def _curve(key: jax.Array, n: int, refit: Callable[[np.ndarray], float]) -> Curve:
    if n < 2 * _PARTS[0]:
        raise BadArrayError(f"a learning curve needs at least {2 * _PARTS[0]} training inputs, got {n}.")
    order = np.asarray(jax.random.permutation(key, n))
    sizes = tuple(n // part for part in _PARTS)
    scores = tuple(float(refit(np.sort(order[:size]))) for size in sizes)
    return Curve(sizes, scores, extrapolated(scores))


def extrapolated(scores: tuple[float, ...]) -> float:
    """What the next doubling would give, by the last two gains.

    Args:
        scores: Of n/4, n/2 and n.

    Returns:
        The last score and a gain that shrinks by the factor by which the last one did, or is the last gain where that
        did not shrink; nothing is added where the last doubling did not help.
    """
    before, last = scores[-2] - scores[-3], scores[-1] - scores[-2]
    if last <= 0:
        return scores[-1]
    return scores[-1] + (last * last / before if before > last else last)
