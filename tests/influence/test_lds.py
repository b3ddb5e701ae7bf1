"""Influence foretells what training again without examples does to digits, and similarity does not."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import spearmanr

from repsim_jax.data import open_source
from repsim_jax.influence import (
    Damping,
    Influence,
    Problem,
    Stability,
    VICReg,
    augmented,
    datamodeling_score,
    ekfac,
    influence,
    outcomes,
    problem,
    random_subsets,
    retrained,
    with_views,
)
from repsim_jax.linalg import unit_rows

KEY = jax.random.key(0)
N, WIDTHS, DECAY, STEPS = 64, (16, 24, 12), 1e-2, 400


class Case(NamedTuple):
    """Digits, what became of them in trainings on random halves, and what influence says."""

    posed: Problem
    masks: np.ndarray
    measured: np.ndarray
    found: Influence


def augment(key: jax.Array, x: jax.Array) -> jax.Array:
    key_shift, key_contrast, key_noise = jax.random.split(key, 3)
    shift = jax.random.uniform(key_shift, (2,), minval=-0.5, maxval=0.5)
    image = x.reshape(8, 8)
    moved = jax.image.scale_and_translate(image, (8, 8), (0, 1), jnp.ones(2), shift, "linear", antialias=False)
    contrast = jax.random.uniform(key_contrast, (), minval=0.8, maxval=1.2)
    return contrast * moved.ravel() + 0.1 * jax.random.normal(key_noise, x.shape)


def embed(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params[0]["kernel"] + params[0]["bias"]) @ params[1]["kernel"] + params[1]["bias"]


def start() -> Problem:
    """The digits along their first principal directions, and a network that is not trained."""
    source = open_source("digits")
    every = np.stack([source.get(i) for i in range(len(source))]).astype(np.float32).reshape(len(source), 64)
    every /= every.max()
    rows = np.random.default_rng(0).permutation(len(every))[:N]
    seen = np.asarray(augmented(KEY, every[rows], augment, num_views=4).seen())
    directions = np.linalg.svd(every - every.mean(0), full_matrices=False)[2][: WIDTHS[0]]
    scale = ((every - every.mean(0)) @ directions.T).std()
    short = ((seen - every.mean(0)) @ directions.T / scale).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 2)
    params = [
        {"kernel": jax.random.normal(key, (a, b)) / a**0.5, "bias": jnp.zeros(b)}
        for key, a, b in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
    ]
    train = with_views(short[:, 0], short[:, 1:])
    return problem(embed, params, train, objective=VICReg(), stability=Stability("views"))


@pytest.fixture(scope="module")
def case() -> Case:
    posed = start()
    optimizer = optax.chain(
        optax.add_decayed_weights(DECAY),
        optax.scale_by_adam(eps_root=1e-12),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(1e-2, STEPS)),
    )
    masks = random_subsets(KEY, N, num_subsets=48)
    together = np.concatenate([np.ones((1, N), bool), masks])
    params = retrained(KEY, posed, together, optimizer=optimizer, num_steps=STEPS, views_per_step=2)
    measured = outcomes(posed, params, posed.train)[1:]
    posed = replace(posed, params=jax.tree.map(lambda leaf: leaf[0], params))
    found = influence(KEY, posed, posed.train, curvature=ekfac(KEY, posed), damping=Damping(absolute=DECAY))
    return Case(posed, masks, measured, found)


@pytest.mark.slow
def test_influence_ranks_the_outcomes_of_training_on_halves(case: Case):
    score = datamodeling_score(KEY, case.found.values, case.masks, case.measured)
    unit = np.asarray(unit_rows(embed(case.posed.params, case.posed.train.x)))
    similar = datamodeling_score(KEY, -unit @ unit.T, case.masks, case.measured)
    assert score.value > 0.6
    assert score.value > similar.value + 0.3


@pytest.mark.slow
def test_self_influence_ranks_what_is_memorized(case: Case):
    out, in_ = (
        (case.measured * masks).sum(0) / masks.sum(0) for masks in (~case.masks, case.masks)
    )  # fmt: skip
    found = spearmanr(-np.diag(case.found.values), out - in_).statistic
    raw = spearmanr(case.found.measurements, out - in_).statistic
    assert found > 0.6
    assert found > raw
