r"""How much is added to the curvature before it is inverted? A choice that moves results, so it is explicit."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from repsim_jax.errors import BadArrayError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Damping:
    r"""What is added to every eigenvalue: :math:`\lambda = \text{relative} \cdot \bar\sigma + \text{absolute}`.

    :math:`\bar\sigma` is the mean eigenvalue of the curvature, of each layer where the curvature is made up of layers.
    The default needs neither labels nor retraining. It was held to retraining on digits and CIFAR-10, under four
    objectives, beside a tenth of the mean eigenvalue, which others take (``benchmarks/influence_lds.py``). Where the
    weight decay of training is known, it belongs into ``absolute``: at the end of training the loss and the penalty
    balance, and the curvature of both is C plus the decay.

    Attributes:
        relative: Share of the mean eigenvalue, >= 0.
        absolute: In units of the curvature, >= 0; the weight decay of training belongs here.

    Source:
        Grosse et al. 2023, arXiv 2308.03296, section 2.2: a share of the mean eigenvalue.

    Differs:
        Their share is a tenth.
    """

    relative: Any = 1e-3
    absolute: Any = 0.0

    def __call__(self, mean_eigenvalue: Any) -> Any:
        """The damping of one curvature.

        Args:
            mean_eigenvalue: Of the curvature.

        Returns:
            What to add to its eigenvalues.
        """
        return self.relative * mean_eigenvalue + self.absolute


def checked_damping(damping: Damping) -> Damping:
    """Refuses damping that would leave a singular curvature as it is, or turn it around.

    Args:
        damping: With numbers.

    Returns:
        The same.

    Raises:
        BadArrayError: If a part is negative or not finite, or both are zero, or it is no damping.
    """
    if not isinstance(damping, Damping):
        raise BadArrayError(f"influence needs damping=Damping(share of the mean eigenvalue), got {damping!r}.")
    parts = np.asarray([float(damping.relative), float(damping.absolute)])
    if not np.isfinite(parts).all() or (parts < 0).any() or not parts.any():
        raise BadArrayError(
            "influence needs damping of finite parts >= 0 that are not both zero, since curvature is singular: got "
            f"relative={damping.relative!r}, absolute={damping.absolute!r}. The default is {Damping()}."
        )
    return damping
