"""What is a canonicalizer trained for? To prefer the poses of its data, and to tell poses apart, all without labels."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.canonicalization.groups import Group
from repsim_jax.errors import BadArrayError, UnknownNameError

CONTRASTS = ("cosine", "dot")


@dataclass(frozen=True)
class Objective:
    r"""Weights of the parts of the loss; a part of weight zero is not computed.

    Attributes:
        prior_weight: Of ``prior_loss``: the data's poses are those that the prior says.
        prior: Probability of each element, of which training images are the outcome of applying it to upright ones;
            None: all are upright.
        contrast_weight: Of the contrast: vectors of different poses are orthogonal.
        contrast: "cosine", or "dot" as in the paper's code.
        entropy_weight: Of ``entropy_loss``: one pose is preferred, whichever it is; for data that are not upright.
        artifact_weight: Of ``artifact_loss``: interpolation does not count. It encodes each view once more.
        task_weight: Of the loss of the model that is wrapped, on canonical forms; needs a model and labels.
        temperature: :math:`\tau` of the probabilities :math:`\propto \exp(-E / \tau)`; the paper's code has 1.
        random_poses: Whether images are shown in random poses, with the prior moved along. Where a group interpolates,
            poses between quarter turns are blurred, and a network that is shown upright images alone takes the sharp
            one for the upright one. Where it moves pixels only, nothing changes, and nothing is done.

    Differs:
        Random poses are ours; the paper's code meets the same with ``artifact_weight``, at twice the cost.
    """

    prior_weight: float = 1.0
    prior: tuple[float, ...] | None = None
    contrast_weight: float = 0.1
    contrast: Literal["cosine", "dot"] = "cosine"
    entropy_weight: float = 0.0
    artifact_weight: float = 0.0
    task_weight: float = 0.0
    temperature: float = 0.1
    random_poses: bool = True

    def __post_init__(self) -> None:
        if self.contrast not in CONTRASTS:
            raise UnknownNameError.of("contrast", str(self.contrast), CONTRASTS)
        weights = (
            self.prior_weight, self.contrast_weight, self.entropy_weight, self.artifact_weight, self.task_weight,
        )  # fmt: skip
        if not all(isfinite(w) and w >= 0 for w in weights) or not any(weights) or not 0 < self.temperature < 1e9:
            raise BadArrayError(f"Objective needs weights >= 0, one of them above 0, and temperature > 0; got {self}.")
        if self.prior is not None and (min(self.prior) < 0 or abs(sum(self.prior) - 1) > 1e-6):
            raise BadArrayError(f"Objective needs a prior of probabilities that add to one, got {self.prior}.")

    def prior_of(self, group: Group) -> Float[Array, " g"]:
        """The prior over a group.

        Args:
            group: Its elements.

        Returns:
            Probabilities.

        Raises:
            BadArrayError: If there is not one probability for each element.
        """
        if self.prior is None:
            return jnp.zeros(group.order).at[0].set(1.0)
        if len(self.prior) != group.order:
            raise BadArrayError(f"the prior has {len(self.prior)} probabilities for {group.order} of {group.name}.")
        return jnp.asarray(self.prior)


OURS = Objective()
# The weights of the paper's code; its contrast, added twice there, is weighted once here.
PAPER = Objective(prior_weight=100.0, contrast="dot", contrast_weight=1e-4, temperature=1.0, random_poses=False)
# For data in any poses: let each image be sure, whatever of.
UNALIGNED = Objective(prior_weight=0.0, entropy_weight=1.0)


def prior_loss(
    energies: Float[Array, "b g"], prior: Float[Array, " g"], temperature: float | Float[Array, ""]
) -> Float[Array, ""]:
    r"""Cross-entropy of the prior and the preferred poses: :math:`-\sum_g p_g \log \mathrm{softmax}(-E / \tau)_g`.

    With cosines as energies it cannot fall below :math:`\log(1 + (|G| - 1) e^{-2 / \tau})`: at temperature 1 that is
    0.34 for C4, and its optimum puts all poses but one at the same vector.

    Args:
        energies: Of all elements.
        prior: Probabilities of the elements.
        temperature: > 0.

    Returns:
        The mean over inputs.

    Source:
        Mondal et al. 2023, arXiv 2310.01647 (of the identity alone); with temperature 1 it is that of arXiv 2405.14089.
    """
    return -(prior * jax.nn.log_softmax(-energies / temperature, axis=-1)).sum(-1).mean()


def dot_contrast(vectors: Float[Array, "g b q"]) -> Float[Array, ""]:
    """Mean size of the dot products of vectors of different poses, among all pairs of poses.

    It is least for vectors of length zero, so that training shrinks them and tells nothing apart.

    Args:
        vectors: Of all poses.

    Returns:
        The mean over inputs and pairs, a pose with itself counting as zero.

    Source:
        The code of arXiv 2405.14089 (equiadapt 0.1.2).
    """
    products = jnp.abs(jnp.einsum("gbq,hbq->bgh", vectors, vectors, precision="highest"))
    return jnp.where(jnp.eye(len(vectors), dtype=bool), 0.0, products).mean()


def cosine_contrast(vectors: Float[Array, "g b q"]) -> Float[Array, ""]:
    """The same of vectors of length one, as the energy sees them.

    Args:
        vectors: Of all poses.

    Returns:
        The mean over inputs and pairs, a pose with itself counting as zero.

    Differs:
        The paper's code takes vectors as they are, while its energy is a cosine.
    """
    squares = jnp.square(vectors).sum(-1, keepdims=True)
    return dot_contrast(vectors * jax.lax.rsqrt(squares + 1e-12))


def entropy_loss(energies: Float[Array, "b g"], temperature: float | Float[Array, ""]) -> Float[Array, ""]:
    """Mean entropy of the preferred poses: zero where each input is sure of one, whichever it is.

    Args:
        energies: Of all elements.
        temperature: > 0.

    Returns:
        In [0, log |G|].
    """
    logs = jax.nn.log_softmax(-energies / temperature, axis=-1)
    return -(jnp.exp(logs) * logs).sum(-1).mean()


def artifact_loss(vectors: Float[Array, "*m q"], again: Float[Array, "*m q"]) -> Float[Array, ""]:
    """Mean squared difference of vectors and those of the same views after a turn and back, which leaves artifacts.

    Args:
        vectors: Of views.
        again: Of the same after a turn and back.

    Returns:
        A mean.

    Source:
        The code of arXiv 2405.14089 (equiadapt 0.1.2).
    """
    return jnp.square(vectors - again).mean()
