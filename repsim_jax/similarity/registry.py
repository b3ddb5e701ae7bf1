"""What each measure is: its range, direction, symmetry and invariances, and how to compute it for all layer pairs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import jax

from repsim_jax.errors import UnknownNameError
from repsim_jax.similarity import canonical, cka, dissimilarity, neighbors, prediction, shape

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


def _mutual_knn(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> jax.Array:
    return neighbors.mutual_knn_pairs(xs, ys, k=neighbors.number_of_neighbors(None, xs[0].shape[0]))


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

# One of each family, all unbiased or held out: what a reader needs to see where measures disagree, at a cost of
# seconds.
DEFAULT_MEASURES = ("linear_cka_unbiased", "rbf_cka_unbiased", "procrustes", "svcca", "rsa", "mutual_knn")


def measures() -> Mapping[str, Measure]:
    """All registered measures by name.

    Returns:
        A read-only mapping in the order of the documentation.
    """
    return _BY_NAME


def measure(name: str) -> Measure:
    """One registered measure.

    Args:
        name: Its name.

    Returns:
        The measure.

    Raises:
        UnknownNameError: If there is none of that name; the nearest are suggested.
    """
    if name not in _BY_NAME:
        raise UnknownNameError.of("measure", name, _BY_NAME)
    return _BY_NAME[name]
