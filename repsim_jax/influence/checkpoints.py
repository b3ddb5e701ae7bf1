"""How much of influence belongs to the data, and how much to one run of training? Asked of several checkpoints.

Pruthi et al. 2020, "TracIn" (arXiv 2002.08484), sum influence over the checkpoints of a run; Park et al. 2023, "TRAK"
(arXiv 2303.14186), average it over runs. Both are means over models here, with the standard error of the mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.counterfactual import spearman
from repsim_jax.influence.objectives import BYOL
from repsim_jax.influence.problems import Problem, checked_model, with_params
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.scores import Influence, SelfInfluence

Estimate = Callable[[jax.Array, Problem], Influence | SelfInfluence]


class OverCheckpoints(NamedTuple):
    """Influence that is averaged over models.

    Attributes:
        values: Mean over models, (n,) or (m, n), as the estimate has it.
        standard_errors: Of the mean, from how models differ; of the same shape.
        each: Of each model, (c, n) or (c, m, n).
        agreement: (c, c) Spearman's correlation between models, over all values; one where the run does not matter.
    """

    values: np.ndarray
    standard_errors: np.ndarray
    each: np.ndarray
    agreement: np.ndarray


def over_checkpoints(
    key: jax.Array,
    posed: Problem,
    checkpoints: Sequence[Any],
    estimate: Estimate,
    *,
    targets: Sequence[Any] | None = None,
    on_progress: Told | None = None,
) -> OverCheckpoints:
    """Influence at several checkpoints of one run, or at the ends of several runs.

    Args:
        key: Random key; each model has its own, folded in by its number.
        posed: The problem, whose parameters are replaced.
        checkpoints: Parameters of at least two models.
        estimate: ``estimate(key, posed)`` gives influence at one model, and fits its curvature there::

                lambda key, at: self_influence(key, at, curvature=ekfac(key, at))

        targets: For ``BYOL``, the target's parameters at each checkpoint; None leaves the objective as it is.
        on_progress: Called as ``on_progress(done, all)`` between models.

    Returns:
        Means, standard errors, and how far models agree.

    Raises:
        BadArrayError: If there are fewer than two checkpoints, targets do not belong to them, parameters are not
            finite, or a model has collapsed.
    """
    models = _models(posed, checkpoints, targets)
    each = []
    for number, model in enumerate(models):
        each.append(np.asarray(estimate(jax.random.fold_in(key, number), checked_model(model)).values))
        if on_progress is not None:
            on_progress(number + 1, len(models))
    stacked = np.stack(each)
    errors = stacked.std(0, ddof=1) / np.sqrt(len(stacked))
    agreement = np.array([[spearman(one.ravel(), other.ravel()) for other in stacked] for one in stacked])
    return OverCheckpoints(stacked.mean(0), errors, stacked, agreement)


def _models(posed: Problem, checkpoints: Sequence[Any], targets: Sequence[Any] | None) -> list[Problem]:
    if len(checkpoints) < 2:
        raise BadArrayError(
            f"over_checkpoints needs at least two checkpoints, to tell how they differ: got {len(checkpoints)}."
        )
    models = [with_params(posed, params) for params in checkpoints]
    if targets is None:
        return models
    if not isinstance(posed.objective, BYOL) or len(targets) != len(models):
        raise BadArrayError(
            f"over_checkpoints takes targets for BYOL, one for each of {len(models)} checkpoints: got {len(targets)} "
            f"for {type(posed.objective).__name__}."
        )
    aimed = [replace(posed.objective, target_params=target) for target in targets]
    return [replace(model, objective=objective) for model, objective in zip(models, aimed, strict=True)]
