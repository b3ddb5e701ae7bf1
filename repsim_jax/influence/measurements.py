"""What about the representation of a query may a training example have changed?

A measurement is a function of the representation that gives one number: of one query, of a pair, or of all queries
together. Influence tells how training examples raise or lower it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.influence.objectives import Objective
from repsim_jax.linalg import unit_rows


class Seeing(NamedTuple):
    """The model, as a measurement may use it.

    Attributes:
        represent: ``represent(params, x)`` gives the representations (n, d) that are measured.
        embed: ``embed(params, x)`` gives the embeddings (n, q) that the objective was trained on.
        params: Parameters.
    """

    represent: Callable[[Any, jax.Array], jax.Array]
    embed: Callable[[Any, jax.Array], jax.Array]
    params: Any

    def rows(self, x: Float[Array, "n *shape"]) -> Float[Array, "n d"]:
        """Representations of examples.

        Args:
            x: Examples.

        Returns:
            (n, d) array.
        """
        return self.represent(self.params, x).reshape(len(x), -1)


class Measurement(Protocol):
    """What a measurement is.

    Attributes:
        num_queries: Of how many queries at a time it is; None where it is of all of them together.
    """

    num_queries: ClassVar[int | None]

    def __call__(self, seeing: Seeing, seen: Float[Array, "g v1 *shape"]) -> Float[Array, ""]:
        """Measures."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stability:
    r"""How far views of a query are from each other, as the paper measures: the mean :math:`1 - \cos(f(x), f(x'))`.

    Lower is more stable.

    Attributes:
        side: "clean" compares the query itself with each of its views; "views" compares all pairs of views.
        normalize: Whether representations are unit vectors, as cosines ask; otherwise half the squared distance is
            meant, for which a linear model has a closed form.

    Source:
        arXiv 2412.17170. The definition names a query and its augmented counterpart ("clean").
    """

    num_queries: ClassVar[int | None] = 1
    side: Literal["clean", "views"] = field(default="clean", metadata={"static": True})
    normalize: bool = field(default=True, metadata={"static": True})

    def residuals(self, seeing: Seeing, seen: Float[Array, "v1 *shape"]) -> Float[Array, " r"]:
        """Differences of representations, of which the measurement is half the squared norm.

        Args:
            seeing: The model.
            seen: A query and its views.

        Returns:
            (r,) array; the number of differences times d.
        """
        rows = seeing.rows(seen if self.side == "clean" else seen[1:])
        rows = unit_rows(rows) if self.normalize else rows
        first, second = _differing(len(rows), self.side)
        return ((rows[first] - rows[second]) / np.sqrt(len(first))).ravel()

    def __call__(self, seeing: Seeing, seen: Float[Array, "1 v1 *shape"]) -> Float[Array, ""]:
        """Measures."""
        return jnp.square(self.residuals(seeing, seen[0])).sum() / 2


def _differing(num_rows: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    if side == "clean":
        return np.zeros(num_rows - 1, int), np.arange(1, num_rows)
    first, second = np.triu_indices(num_rows, 1)
    return first, second


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FeatureDirection:
    """Where a query lies along a direction of the representation; also a linear probe's logit, up to its constant.

    Attributes:
        direction: (d,).
        normalize: Whether the representation is a unit vector first.
    """

    num_queries: ClassVar[int | None] = 1
    direction: Float[Array, " d"]
    normalize: bool = field(default=False, metadata={"static": True})

    def __call__(self, seeing: Seeing, seen: Float[Array, "1 v1 *shape"]) -> Float[Array, ""]:
        """Measures."""
        row = seeing.rows(seen[0, :1])
        return (unit_rows(row) if self.normalize else row)[0] @ self.direction


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProbeLogit:
    """What a linear probe that was trained on the representation says for one class, where there are labels.

    Attributes:
        weights: (d, c) of the probe.
        biases: (c,) of the probe.
        index: The class.
    """

    num_queries: ClassVar[int | None] = 1
    weights: Float[Array, "d c"]
    biases: Float[Array, " c"]
    index: int = 0

    def __call__(self, seeing: Seeing, seen: Float[Array, "1 v1 *shape"]) -> Float[Array, ""]:
        """Measures."""
        return (seeing.rows(seen[0, :1])[0] @ self.weights + self.biases)[self.index]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Distance:
    """One minus the cosine between two queries; rows 0 and 1 are the first pair, rows 2 and 3 the second."""

    num_queries: ClassVar[int | None] = 2

    def __call__(self, seeing: Seeing, seen: Float[Array, "2 v1 *shape"]) -> Float[Array, ""]:
        """Measures."""
        rows = unit_rows(seeing.rows(seen[:, 0]))
        return 1 - rows[0] @ rows[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Uniformity:
    r"""How unevenly all queries lie on the sphere, :math:`\log \mathrm{mean}_{i \neq j} e^{-t \|z_i - z_j\|^2}`.

    Attributes:
        t: Sharpness > 0.

    Source:
        Wang and Isola 2020, arXiv 2005.10242, equation 2.
    """

    num_queries: ClassVar[int | None] = None
    fewest: ClassVar[int] = 2
    t: float = 2.0

    def __call__(self, seeing: Seeing, seen: Float[Array, "g v1 *shape"]) -> Float[Array, ""]:
        """Measures."""
        rows = unit_rows(seeing.rows(seen[:, 0]))
        first, second = np.triu_indices(len(rows), 1)
        squared = jnp.square(rows[first] - rows[second]).sum(1)
        return jax.nn.logsumexp(-self.t * squared) - np.log(len(first))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainingLoss:
    """The training objective of all queries as one batch.

    Attributes:
        objective: From ``repsim_jax.influence``.
    """

    num_queries: ClassVar[int | None] = None
    objective: Objective

    def __call__(self, seeing: Seeing, seen: Float[Array, "g v1 *shape"]) -> Float[Array, ""]:
        """Measures."""
        return self.objective.loss(seeing.embed, seeing.params, seen[:, 1:], jnp.ones(len(seen)))
