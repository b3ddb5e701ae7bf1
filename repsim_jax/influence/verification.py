"""Does influence foretell training without examples, for a network like this one on data like these?"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.counterfactual import (
    DatamodelingScore,
    column_correlations,
    datamodeling_score,
    leave_one_out,
    noise_ceiling,
    outcomes,
    random_subsets,
    spearman,
)
from repsim_jax.influence.curvature import Curvature
from repsim_jax.influence.damping import Damping
from repsim_jax.influence.derivatives import Mode
from repsim_jax.influence.examples import Examples
from repsim_jax.influence.problems import Problem
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.representing import representations
from repsim_jax.influence.retraining import retrained
from repsim_jax.influence.scores import influence
from repsim_jax.linalg import unit_rows

Initial = Callable[[jax.Array], Any]
# What influence must beat: likeness, and a rule that knows of a subset nothing but whether the query itself is in it.
BASELINES = ("embedding cosine", "own presence")


class Truth(NamedTuple):
    """What training without examples did.

    Attributes:
        posed: The problem, trained on all examples.
        held_out: Queries that were never trained on; None where there are none.
        masks: (s, n) subsets, for each share.
        own: (s, n) outcomes of training examples, for each share.
        others: (s, m) outcomes of the held-out queries, for each share; empty where there are none.
        left_out: (n, n) by how much including each example raises the measurement of each training example.
        left_out_others: (m, n) by how much it raises that of the held-out queries; None where there are none.
        ceilings: For each share, what a perfect predictor of the expected outcome would score; None where not asked.
        ceilings_others: That of the held-out queries.
    """

    posed: Problem
    held_out: Examples | None
    masks: tuple[np.ndarray, ...]
    own: tuple[np.ndarray, ...]
    others: tuple[np.ndarray, ...]
    left_out: np.ndarray
    left_out_others: np.ndarray | None
    ceilings: tuple[float, ...] | None
    ceilings_others: tuple[float, ...] | None


def trained_without(
    key: jax.Array,
    start: Problem,
    *,
    held_out: Examples | None = None,
    initial: Initial | None = None,
    shares: Sequence[float] = (0.5,),
    num_subsets: int = 64,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    views_per_step: int | None = None,
    target_decay: float | None = None,
    lanes: int = 32,
    on_progress: Told | None = None,
) -> Truth:
    """Trains a network on all examples, on random subsets of them, and without each of them.

    Args:
        key: Random key; draws subsets and batches.
        start: The problem with the parameters before training, of a few hundred examples at most.
        held_out: Examples that are never trained on, to be measured too.
        initial: ``initial(key)`` draws other first parameters: half of the subsets are trained from them as well, which
            tells how far outcomes belong to the data at all. None: no ceilings.
        shares: Parts of the examples that are in the subsets.
        num_subsets: Subsets of each share.
        optimizer: As in ``retrained``.
        num_steps: As in ``retrained``.
        views_per_step: As in ``retrained``.
        target_decay: As in ``retrained``.
        lanes: As in ``retrained``.
        on_progress: As in ``retrained``.

    Returns:
        What came out.

    Raises:
        BadArrayError: As ``random_subsets`` and ``retrained``.
    """
    n = len(start.train)
    key_train, key_other, *keys = jax.random.split(key, 2 + len(shares))
    masks = [random_subsets(k, n, num_subsets=num_subsets, share=one) for k, one in zip(keys, shares, strict=True)]
    how: dict[str, Any] = {
        "optimizer": optimizer, "num_steps": num_steps, "views_per_step": views_per_step, "target_decay": target_decay,
        "lanes": lanes, "on_progress": on_progress,
    }  # fmt: skip
    together = np.concatenate([np.ones((1, n), bool), *masks, leave_one_out(n)])
    params, again = retrained(key_train, start, together, **how), None
    if initial is not None:
        half = np.concatenate([one[: num_subsets // 2] for one in masks])
        # as many lanes as before, or it would compile anew
        filled = np.resize(half, (max(len(half), min(lanes, len(together))), n))
        again = retrained(key_other, replace(start, params=initial(key_other)), filled, **how)
        again = jax.tree.map(lambda leaf: leaf[: len(half)], again)
    own = _seen(start, start.train, params, again, len(shares), num_subsets)
    others = None if held_out is None else _seen(start, held_out, params, again, len(shares), num_subsets)
    trained = replace(start, params=jax.tree.map(lambda leaf: leaf[0], params))
    return Truth(
        trained, held_out, tuple(masks), own.parts, () if others is None else others.parts,
        own.left_out, None if others is None else others.left_out,
        own.ceilings, None if others is None else others.ceilings,
    )  # fmt: skip


class _Seen(NamedTuple):
    parts: tuple[np.ndarray, ...]
    left_out: np.ndarray
    ceilings: tuple[float, ...] | None


def _seen(start: Problem, queries: Examples, params: Any, again: Any, num_shares: int, num_subsets: int) -> _Seen:
    """Outcomes of some queries; a ceiling where half of the subsets were trained again."""
    measured = outcomes(start, params, queries)
    parts = tuple(np.split(measured[1 : 1 + num_shares * num_subsets], num_shares))
    left_out = (measured[0] - measured[1 + num_shares * num_subsets :]).T
    if again is None:
        return _Seen(parts, left_out, None)
    repeats = np.split(outcomes(start, again, queries), num_shares)
    pairs = [np.stack([one[: len(two)], two]) for one, two in zip(parts, repeats, strict=True)]
    return _Seen(parts, left_out, tuple(noise_ceiling(pair, judged_on=1) for pair in pairs))


class Judged(NamedTuple):
    """How well one way to score examples foretold what training without them did.

    Attributes:
        scores: Linear datamodeling score of training examples, for each share.
        held_out: Of queries that were never trained on, for each share; empty where there are none.
        memorization: Spearman's correlation of self-influence with what leaving out each example did to itself.
        memorization_by_subsets: With how much less stable an example is in models of the first share that were trained
            without it than in those with it.
        leave_one_out: Spearman's correlation, over examples, with what leaving out each did to a training example; the
            mean over these.
        leave_one_out_held_out: The same of held-out queries; None where there are none.
    """

    scores: tuple[DatamodelingScore, ...]
    held_out: tuple[DatamodelingScore, ...]
    memorization: float
    memorization_by_subsets: float
    leave_one_out: float
    leave_one_out_held_out: float | None


def judged(
    key: jax.Array, true: Truth, own: np.ndarray, others: np.ndarray | None = None, *, num_resamples: int = 200
) -> Judged:
    """Holds influence to what training without examples did.

    Args:
        key: Random key of the intervals.
        true: From ``trained_without``.
        own: (n, n) influence on training examples.
        others: (m, n) influence on the held-out queries; None where there are none.
        num_resamples: Of the intervals.

    Returns:
        The scores.

    Raises:
        BadArrayError: If there are held-out queries and no influence on them, or shapes do not belong together.
    """
    if (others is None) != (true.held_out is None):
        raise BadArrayError("judged takes influence on held-out queries where there are such queries, and only there.")

    def scored(values: Any, measured: Iterable[np.ndarray]) -> tuple[DatamodelingScore, ...]:
        pairs = zip(true.masks, measured, strict=True)
        return tuple(datamodeling_score(key, values, m, one, num_resamples=num_resamples) for m, one in pairs)

    subsets, measured = true.masks[0], true.own[0]
    both = subsets.any(0) & ~subsets.all(0)  # of few subsets, an example may be in all or none
    into, out_of = subsets[:, both], ~subsets[:, both]
    missed = (measured[:, both] * out_of).sum(0) / out_of.sum(0) - (measured[:, both] * into).sum(0) / into.sum(0)
    itself = -np.diag(own)
    along = lambda left, right: float(column_correlations(jnp.asarray(left.T), jnp.asarray(right.T)).mean())  # noqa: E731
    return Judged(
        scored(own, true.own),
        () if others is None else scored(others, true.others),
        spearman(itself, -np.diag(true.left_out)),
        spearman(itself[both], missed),
        along(own, true.left_out),
        None if others is None or true.left_out_others is None else along(others, true.left_out_others),
    )


def baselines(true: Truth) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """What influence must beat: ``BASELINES``.

    Args:
        true: From ``trained_without``.

    Returns:
        By name, values of training examples and of held-out queries.
    """
    unit = lambda x: np.asarray(unit_rows(jnp.asarray(representations(true.posed, x))))  # noqa: E731
    rows, n = unit(true.posed.train.x), len(true.posed.train)
    others = None if true.held_out is None else -unit(true.held_out.x) @ rows.T
    nothing = None if true.held_out is None else np.zeros((len(true.held_out), n))
    # what is like a query is expected to make it more stable, which is a lower measurement
    return {"embedding cosine": (-rows @ rows.T, others), "own presence": (-np.eye(n), nothing)}


class Verification(NamedTuple):
    """How well ways to score examples foretold what training without them did.

    Attributes:
        names: Of the ways; the last two are ``BASELINES``.
        scores: Linear datamodeling score of each, of training examples.
        memorization: (k,) Spearman's correlation of self-influence with what leaving out each example did; NaN for the
            last two.
        held_out: Scores of queries that were never trained on; empty where there are none.
        ceiling: What a perfect predictor of the expected outcome would score; None where not asked.
        held_out_ceiling: The same of held-out queries.
        num_examples: Training examples.
        num_held_out: Queries that were never trained on.
        num_subsets: Random halves that were trained on.
        num_steps: Updates of each training.
    """

    names: tuple[str, ...]
    scores: tuple[DatamodelingScore, ...]
    memorization: np.ndarray
    held_out: tuple[DatamodelingScore, ...]
    ceiling: float | None
    held_out_ceiling: float | None
    num_examples: int
    num_held_out: int
    num_subsets: int
    num_steps: int


def verification(
    key: jax.Array,
    start: Problem,
    *,
    fits: Mapping[str, Callable[[Problem], Curvature]],
    held_out: Examples | None = None,
    initial: Initial | None = None,
    modes: tuple[Mode, ...] = ("batch", "paper"),
    damping: Damping = Damping(),  # noqa: B008 (frozen)
    optimizer: optax.GradientTransformation,
    num_steps: int,
    num_subsets: int = 64,
    views_per_step: int | None = None,
    lanes: int = 32,
    on_progress: Told | None = None,
) -> Verification:
    """Trains a network on all examples, on random halves of them and without each of them, and compares with influence.

    Args:
        key: Random key; draws subsets and batches.
        start: The problem with the parameters before training, of a few hundred examples at most.
        fits: By name, what fits a curvature to the trained problem.
        held_out: As in ``trained_without``.
        initial: As in ``trained_without``.
        modes: As in ``influence``; each with each curvature.
        damping: As in ``influence``.
        optimizer: As in ``retrained``.
        num_steps: As in ``retrained``.
        num_subsets: Random halves, at least three.
        views_per_step: As in ``retrained``.
        lanes: As in ``retrained``.
        on_progress: As in ``retrained``.

    Returns:
        The scores.

    Raises:
        BadArrayError: As ``random_subsets``, ``retrained`` and ``datamodeling_score``.
    """
    key_train, key_fit, key_interval = jax.random.split(key, 3)
    true = trained_without(
        key_train, start, held_out=held_out, initial=initial, num_subsets=num_subsets, optimizer=optimizer,
        num_steps=num_steps, views_per_step=views_per_step, lanes=lanes, on_progress=on_progress,
    )  # fmt: skip
    scored: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, fit in fits.items():
        curvature = fit(true.posed)
        for mode in modes:
            given: dict[str, Any] = {"curvature": curvature, "mode": mode, "damping": damping}
            own = influence(key_fit, true.posed, start.train, **given).values
            others = None if held_out is None else influence(key_fit, true.posed, held_out, **given).values
            scored[f"{mode}, {name}"] = own, others
    scored |= baselines(true)
    found = [judged(key_interval, true, *values) for values in scored.values()]
    memorization = np.asarray([one.memorization for one in found])
    memorization[-len(BASELINES) :] = np.nan
    ceiling, held_out_ceiling = (None if one is None else one[0] for one in (true.ceilings, true.ceilings_others))
    return Verification(
        tuple(scored), tuple(one.scores[0] for one in found), memorization,
        tuple(one.held_out[0] for one in found if one.held_out), ceiling, held_out_ceiling, len(start.train),
        0 if held_out is None else len(held_out), num_subsets, num_steps,
    )  # fmt: skip
