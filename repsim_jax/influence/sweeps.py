"""How much do results hang on the damping? Shown by a sweep, without labels and without training again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.counterfactual import spearman
from repsim_jax.influence.curvature import Curvature
from repsim_jax.influence.damping import Damping
from repsim_jax.influence.derivatives import Mode
from repsim_jax.influence.problems import Problem
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.scores import self_influence


class DampingSweep(NamedTuple):
    """Self-influence under several dampings.

    Attributes:
        relative: (k,) shares of the mean eigenvalue.
        values: (k, n) self-influence.
        split_half: (k,) Spearman's correlation over examples between the scores of one half of the views and the other:
            what is below one is noise of the views.
        agreement: (k, k) Spearman's correlation between dampings: what is near one does not hang on the choice.
    """

    relative: np.ndarray
    values: np.ndarray
    split_half: np.ndarray
    agreement: np.ndarray


def damping_sweep(
    key: jax.Array,
    posed: Problem,
    *,
    curvature: Curvature,
    relative: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0),
    mode: Mode = "batch",
    on_progress: Told | None = None,
    **options: Any,
) -> DampingSweep:
    """Self-influence under several dampings, and how reliable and how alike the rankings are.

    The curvature is fitted once, and nothing is compiled anew. Reliability alone does not tell which damping foresees
    retraining best: endless damping is the product of gradients, which is reliable too.

    Args:
        key: As in ``self_influence``.
        posed: The problem, of four views at least.
        curvature: As in ``self_influence``.
        relative: Shares of the mean eigenvalue, each > 0.
        mode: As in ``self_influence``.
        on_progress: Called as ``on_progress(done, all)`` between dampings.
        **options: Others of ``self_influence`` (``measurement``, ``block``, ``mesh``).

    Returns:
        The sweep.

    Raises:
        BadArrayError: If there are fewer than four views, or no dampings.
    """
    views = posed.train.num_views
    if views < 4 or not len(relative):
        raise BadArrayError(
            f"damping_sweep needs four views, two for each half, and at least one damping: got {views} views and "
            f"{len(relative)} dampings."
        )
    halves = [replace(posed, train=posed.train.some_views(np.arange(start, views, 2))) for start in (0, 1)]
    values, reliability = [], []
    for number, share in enumerate(relative, 1):
        found = [
            self_influence(
                key, one, curvature=curvature, mode=mode, damping=Damping(share), view_groups=0, **options
            ).values
            for one in (posed, *halves)
        ]
        values.append(found[0])
        reliability.append(spearman(found[1], found[2]))
        if on_progress is not None:
            on_progress(number, len(relative))
    agreement = np.array([[spearman(one, other) for other in values] for one in values])
    return DampingSweep(np.asarray(relative), np.stack(values), np.asarray(reliability), agreement)
