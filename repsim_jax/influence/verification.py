"""Does influence foretell training without examples, for a network like this one on data like these?"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from repsim_jax.influence.counterfactual import (
    DatamodelingScore,
    datamodeling_score,
    leave_one_out,
    outcomes,
    random_subsets,
    spearman,
)
from repsim_jax.influence.curvature import Curvature
from repsim_jax.influence.damping import Damping
from repsim_jax.influence.derivatives import Mode
from repsim_jax.influence.problems import Problem
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.representing import representations
from repsim_jax.influence.retraining import retrained
from repsim_jax.influence.scores import influence
from repsim_jax.linalg import unit_rows


class Verification(NamedTuple):
    """How well ways to score examples foretold what training without them did.

    Attributes:
        names: Of the ways; the last two are what influence must beat: the cosine of embeddings, and "own presence",
            which knows of a half nothing but whether the query itself is in it.
        scores: Linear datamodeling score of each.
        memorization: (k,) Spearman's correlation of self-influence with what leaving out each example did; NaN for the
            last two.
        num_examples: Training examples.
        num_subsets: Random halves of them that were trained on.
        num_steps: Updates of each training.
    """

    names: tuple[str, ...]
    scores: tuple[DatamodelingScore, ...]
    memorization: np.ndarray
    num_examples: int
    num_subsets: int
    num_steps: int


def verification(
    key: jax.Array,
    start: Problem,
    *,
    fits: Mapping[str, Callable[[Problem], Curvature]],
    modes: tuple[Mode, ...] = ("batch", "paper"),
    damping: Damping = Damping(),  # noqa: B008 (frozen)
    optimizer: optax.GradientTransformation,
    num_steps: int,
    num_subsets: int = 64,
    lanes: int = 32,
    on_progress: Told | None = None,
) -> Verification:
    """Trains a network on all examples, on random halves of them and without each of them, and compares with influence.

    Args:
        key: Random key; draws subsets and batches.
        start: The problem with the parameters before training, of a few hundred examples at most.
        fits: By name, what fits a curvature to the trained problem.
        modes: As in ``influence``; each with each curvature.
        damping: As in ``influence``.
        optimizer: As in ``retrained``.
        num_steps: As in ``retrained``.
        num_subsets: Random halves, at least three.
        lanes: As in ``retrained``.
        on_progress: As in ``retrained``.

    Returns:
        The scores.

    Raises:
        BadArrayError: As ``random_subsets``, ``retrained`` and ``datamodeling_score``.
    """
    key_subsets, key_train, key_fit, key_interval = jax.random.split(key, 4)
    n = len(start.train)
    halves = random_subsets(key_subsets, n, num_subsets=num_subsets)
    masks = np.concatenate([np.ones((1, n), bool), halves, leave_one_out(n)])
    params = retrained(
        key_train, start, masks, optimizer=optimizer, num_steps=num_steps, lanes=lanes, on_progress=on_progress
    )
    measured = outcomes(start, params, start.train)
    trained = replace(start, params=jax.tree.map(lambda leaf: leaf[0], params))
    truth = measured[1 : 1 + num_subsets]
    missed = np.diag(measured[1 + num_subsets :]) - measured[0]
    unit = np.asarray(unit_rows(jnp.asarray(representations(trained, start.train.x))))
    scored: dict[str, Any] = {}
    for name, fit in fits.items():
        curvature = fit(trained)
        for mode in modes:
            found = influence(key_fit, trained, start.train, curvature=curvature, mode=mode, damping=damping)
            scored[f"{mode}, {name}"] = found.values
    # what is like a query is expected to make it more stable, which is a lower measurement
    scored["cosine of embeddings"] = -unit @ unit.T
    scored["own presence"] = -np.eye(n)
    scores = tuple(datamodeling_score(key_interval, values, halves, truth) for values in scored.values())
    own = [spearman(-np.diag(values), missed) for values in scored.values()]
    own[-2:] = [float("nan")] * 2
    return Verification(tuple(scored), scores, np.asarray(own), n, num_subsets, num_steps)
