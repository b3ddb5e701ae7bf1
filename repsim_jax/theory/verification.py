"""Do the theory's claims hold on these data? All of them, over widths and seeds, in one call."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.theory.beyond import beyond_the_theory
from repsim_jax.theory.beyond_pca import beyond_pca
from repsim_jax.theory.claims import Claim, Setup, Told
from repsim_jax.theory.constancy import cosine_constancy, courses_of, dot_boundary
from repsim_jax.theory.courses import Course
from repsim_jax.theory.escape import dot_escape
from repsim_jax.theory.objectives import Objective
from repsim_jax.theory.orthogonal import frozen_is_pca, trained_is_near_pca
from repsim_jax.theory.triplets import Triplets


def verify(
    key: jax.Array,
    given: Triplets,
    *,
    setup: Setup = Setup(),  # noqa: B008 (frozen)
    beyond: bool = False,
    on_progress: Told | None = None,
) -> tuple[Claim, ...]:
    """Tests every claim on triplets of real examples.

    Args:
        key: Random key; draws all networks.
        given: From ``triplets``.
        setup: Widths, seeds and horizons.
        beyond: Whether to look beyond the theory as well: ``beyond_the_theory`` and ``beyond_pca``, many minutes.
        on_progress: Called with a line for each step.

    Returns:
        The claims with their verdicts. Everything is computed in float64, since at large widths the kernel changes by
        less than float32 can tell.

    Raises:
        BadArrayError: If the points are not finite, one is zero, or there are fewer than components.
        MissingPackageError: If diffrax is not installed.

    Source:
        arXiv 2403.08673 for the claims; what goes beyond is marked as ours.
    """
    told = on_progress or (lambda _: None)
    points = _checked(given)
    if setup.num_components >= len(points):
        raise BadArrayError(
            f"verify needs fewer components than the {len(points)} points, got {setup.num_components}. Take more "
            "triplets or fewer components."
        )
    with enable_x64():
        x = jnp.asarray(points)
        claims = (
            cosine_constancy(key, x, setup, told),
            dot_escape(key, x, setup, told),
            dot_boundary(key, x, setup, told),
            frozen_is_pca(key, x, setup, told),
            trained_is_near_pca(key, x, setup, told),
        )
    if not beyond:
        return claims
    return (*claims, beyond_the_theory(key, given, setup, told), beyond_pca(key, given, setup, told))


def drift(
    key: jax.Array,
    given: Triplets,
    *,
    objectives: Sequence[Objective] = (Objective("linear", "cosine"), Objective("linear", "dot")),
    setup: Setup = Setup(),  # noqa: B008 (frozen)
    on_progress: Told | None = None,
) -> tuple[Course, ...]:
    """How the tangent kernel drifts in time at every width, under losses of your choice; without any verdict.

    Args:
        key: Random key; draws all networks.
        given: From ``triplets``.
        objectives: Losses.
        setup: Widths, seeds, horizon and activations.
        on_progress: Called with a line for each step.

    Returns:
        A course for each activation and loss.

    Raises:
        BadArrayError: If the points are not finite, or one is zero.
        MissingPackageError: If diffrax is not installed.
    """
    told = on_progress or (lambda _: None)
    points = _checked(given)
    with enable_x64():
        x = jnp.asarray(points)
        return tuple(
            course
            for activation in setup.activations
            for course in courses_of(key, x, setup, tuple(objectives), activation, told)
        )


def _checked(given: Triplets) -> np.ndarray:
    if not isinstance(given, Triplets):
        raise BadArrayError(f"theory works on triplets, got {type(given).__name__}: call triplets(key, data) first.")
    points = np.asarray(given.points)
    if not np.isfinite(points).all() or not points.any(axis=1).all():
        raise BadArrayError("theory needs finite points that are not zero, which have no cosine: see triplets.")
    return points
