"""What each measure is: its range, direction, symmetry and invariances, and how to compute it for all layer pairs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np

from repsim_jax.activations.layers import Layers
from repsim_jax.errors import UnknownNameError
from repsim_jax.similarity import canonical, cka, dissimilarity, neighbors, prediction, shape
from repsim_jax.similarity.comparison import ByExample

Invariance = Literal["translation", "isotropic scaling", "orthogonal", "permutation", "invertible linear"]

_ROTATION = frozenset[Invariance](("translation", "isotropic scaling", "orthogonal", "permutation"))
_LINEAR = frozenset[Invariance]((*_ROTATION, "invertible linear"))


class Measure(NamedTuple):
    """One registered measure.

    Attributes:
        name: What it is called in code, on the command line and in policies.
        title: What it is called in tables and pictures.
        pairs: ``pairs(xs, ys)`` of checked layers gives the (L_A, L_B) scores.
        range: Lowest and highest value; estimates of an unbiased measure may leave it by their noise.
        symmetric: Whether swapping the two representations changes nothing.
        invariances: Transformations of either representation that change nothing.
        min_rows: Fewest examples for which it is defined.
        source: The paper.
        undefined: Why it can be undefined for checked input, a clause.
        shift_invariant: Whether a constant added to a feature changes nothing.
        larger_is_more_similar: Direction.
        kind: ``similarity``, ``distance`` or ``metric``.
        learned: Whether it must be fitted before it can be used; ``pairs`` of such a measure only says so.
    """

    name: str
    title: str
    pairs: Callable[[Sequence[jax.Array], Sequence[jax.Array]], jax.Array]
    range: tuple[float, float]
    symmetric: bool
    invariances: frozenset[Invariance]
    min_rows: int
    source: str
    undefined: str = "nothing varies"
    shift_invariant: bool = True
    larger_is_more_similar: bool = True
    kind: Literal["similarity", "distance", "metric"] = "similarity"
    learned: bool = False


class LearnedMeasure(Protocol):
    """What ``compare`` asks of a fitted measure, of two sides a and b and the rows that both have.

    Attributes:
        descriptor: Its entry in the registry.
        settings: What is known about it, JSON-serializable.
        rows: Those of the rows of a and of b on which it may be scored; raises where it may not.
        scores: (L_A, L_B) values on such rows.
        by_example: Scores of single examples where both sides have the same layers; None where there are none.
        notes: What a reader must know before concluding from these values, in sentences.
        doubt: Why no gate may rest on it for these two, a clause; None where nothing speaks against it.
    """

    @property
    def descriptor(self) -> Measure:
        """Its entry in the registry."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What is known about it."""
        ...

    def rows(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the rows on which it may be scored."""
        ...

    def scores(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
        """All layer pairs on such rows."""
        ...

    def by_example(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> ByExample | None:
        """Scores of single examples on such rows."""
        ...

    def notes(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> tuple[str, ...]:
        """What a reader must know."""
        ...

    def doubt(self, a: Layers, b: Layers) -> str | None:
        """Why no gate may rest on it."""
        ...


def _mutual_knn(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> jax.Array:
    return neighbors.mutual_knn_pairs(xs, ys, k=neighbors.number_of_neighbors(None, xs[0].shape[0]))


def _unfitted(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> jax.Array:  # noqa: ARG001 (as all pairs)
    raise UnknownNameError(
        "contrasim is a learned measure and must be fitted first: fitted = contrasim.fit(key, sources).measure, and "
        "then measures=[contrasim.Learned(fitted)]; on the command line `repsim contrasim fit`, then --learned FOLDER."
    )


_MEASURES = (
    Measure(
        name="linear_cka",
        title="Linear CKA (biased)",
        pairs=cka.linear_cka_pairs,
        range=(0, 1),
        symmetric=True,
        invariances=_ROTATION,
        min_rows=3,
        source="Kornblith et al. 2019, arXiv 1905.00414",
        undefined=cka.UNDEFINED,
    ),
    Measure(
        name="linear_cka_unbiased",
        title="Linear CKA",
        pairs=functools.partial(cka.linear_cka_pairs, unbiased=True),
        range=(-1, 1),
        symmetric=True,
        invariances=_ROTATION,
        min_rows=4,
        source="Kornblith et al. 2019, arXiv 1905.00414; unbiased HSIC: Song et al. 2012",
        undefined=cka.UNDEFINED,
    ),
    Measure(
        name="rbf_cka",
        title="RBF CKA (biased)",
        pairs=cka.rbf_cka_pairs,
        range=(0, 1),
        symmetric=True,
        invariances=_ROTATION,
        min_rows=3,
        source="Kornblith et al. 2019, arXiv 1905.00414",
        undefined=cka.UNDEFINED,
    ),
    Measure(
        name="rbf_cka_unbiased",
        title="RBF CKA",
        pairs=functools.partial(cka.rbf_cka_pairs, unbiased=True),
        range=(-1, 1),
        symmetric=True,
        invariances=_ROTATION,
        min_rows=4,
        source="Kornblith et al. 2019, arXiv 1905.00414; unbiased HSIC: Song et al. 2012",
        undefined=cka.UNDEFINED,
    ),
    Measure(
        name="minibatch_cka",
        title="Minibatch CKA",
        pairs=cka.minibatch_cka_pairs,
        range=(-1, 1),
        symmetric=True,
        invariances=_ROTATION,
        min_rows=4,
        source="Nguyen, Raghu and Kornblith 2021, arXiv 2010.15327",
        undefined=cka.UNDEFINED,
    ),
    Measure(
        name="cca",
        title="Mean CCA",
        pairs=canonical.cca_pairs,
        range=(0, 1),
        symmetric=True,
        invariances=_LINEAR,
        min_rows=3,
        source="Hotelling 1936",
        undefined=canonical.UNDEFINED,
    ),
    Measure(
        name="svcca",
        title="SVCCA",
        pairs=canonical.svcca_pairs,
        range=(0, 1),
        symmetric=True,
        invariances=_ROTATION,
        min_rows=3,
        source="Raghu et al. 2017, arXiv 1706.05806",
        undefined=canonical.UNDEFINED,
    ),
    Measure(
        name="pwcca",
        title="PWCCA",
        pairs=canonical.pwcca_pairs,
        range=(0, 1),
        symmetric=False,
        invariances=_ROTATION - {"orthogonal"},
        min_rows=3,
        source="Morcos et al. 2018, arXiv 1806.05759",
        undefined=canonical.UNDEFINED,
    ),
    Measure(
        name="procrustes",
        title="Procrustes",
        pairs=shape.procrustes_pairs,
        range=(0, 1),
        symmetric=True,
        invariances=_ROTATION,
        min_rows=3,
        source="Williams et al. 2021, arXiv 2110.14739",
    ),
    Measure(
        name="rsa",
        title="RSA (Spearman)",
        pairs=dissimilarity.rsa_pairs,
        range=(-1, 1),
        symmetric=True,
        invariances=_ROTATION - {"translation", "orthogonal"},
        min_rows=4,
        source="Kriegeskorte et al. 2008, doi 10.3389/neuro.06.004.2008",
        undefined=dissimilarity.UNDEFINED,
        shift_invariant=False,
    ),
    Measure(
        name="mutual_knn",
        title="Mutual kNN",
        pairs=_mutual_knn,
        range=(0, 1),
        symmetric=True,
        invariances=_ROTATION,
        min_rows=5,
        source="Huh et al. 2024, arXiv 2405.07987",
    ),
    Measure(
        name="linear_predictivity",
        title="Linear predictivity (R²)",
        pairs=prediction.linear_predictivity_pairs,
        range=(float("-inf"), 1),
        symmetric=False,
        invariances=_ROTATION,
        min_rows=5,
        source="Kornblith et al. 2019, arXiv 1905.00414, section 4; held out",
    ),
)
_BY_NAME = MappingProxyType({measure.name: measure for measure in _MEASURES})
# Not among measures(): these have no value before a fit.
_LEARNED = {
    "contrasim": Measure(
        name="contrasim",
        title="ContraSim (learned)",
        pairs=_unfitted,
        range=(-1, 1),
        symmetric=True,
        invariances=frozenset(),
        min_rows=2,
        source="arXiv 2303.16992",
        shift_invariant=False,
        learned=True,
    )
}

# One of each family, all unbiased or held out: what a reader needs to see where measures disagree, at a cost of
# seconds.
DEFAULT_MEASURES = ("linear_cka_unbiased", "rbf_cka_unbiased", "procrustes", "svcca", "rsa", "mutual_knn")


def measures() -> Mapping[str, Measure]:
    """All registered measures that need no fit, by name.

    Returns:
        A read-only mapping in the order of the documentation.
    """
    return _BY_NAME


def measure(name: str) -> Measure:
    """One registered measure, or a learned one ("contrasim").

    Args:
        name: Its name.

    Returns:
        The measure.

    Raises:
        UnknownNameError: If there is none of that name; the nearest are suggested.
    """
    known = {**_BY_NAME, **_LEARNED}
    if name not in known:
        raise UnknownNameError.of("measure", name, known)
    return known[name]
