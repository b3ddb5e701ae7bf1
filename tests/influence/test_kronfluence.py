"""EK-FAC gives the scores of kronfluence, which benchmarks/influence_kronfluence.py stored with weights and views."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from repsim_jax._compat import enable_x64
from repsim_jax.influence import Damping, SimCLR, Stability, ekfac, influence, problem, self_influence, with_views

STORED = Path(__file__).with_name("kronfluence_scores.npz")
KEY = jax.random.key(0)


def dense(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params[0]["kernel"] + params[0]["bias"]) @ params[1]["kernel"] + params[1]["bias"]


def convolutions(params: Any, x: jax.Array) -> jax.Array:
    for stride, layer in zip((1, 2), params, strict=False):
        dimensions, zeros = ("NHWC", "HWIO", "NHWC"), ((1, 1), (1, 1))
        x = jax.lax.conv_general_dilated(x, layer["kernel"], (stride, stride), zeros, dimension_numbers=dimensions)
        x = jax.nn.relu(x + layer["bias"])
    x = jax.nn.relu(x.mean((1, 2)) @ params[2]["kernel"] + params[2]["bias"])
    return x @ params[3]["kernel"] + params[3]["bias"]


CASES = {
    "dense": (dense, 2, (64,)),
    "convolutions": (convolutions, 4, (8, 8, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_self_and_pairwise_influence_are_those_of_kronfluence(name: str):
    embed: Callable[..., Any]
    embed, num_layers, shape = CASES[name]
    with enable_x64(), np.load(STORED) as stored:
        params = [
            {part: jnp.asarray(stored[f"{name}_{part}_{i}"], jnp.float64) for part in ("kernel", "bias")}
            for i in range(num_layers)
        ]
        views = jnp.asarray(stored["views"].astype(np.float64) / 16 - 0.5).reshape(-1, 2, *shape)
        posed = problem(
            embed, params, with_views(views[:, 0], views), objective=SimCLR(), stability=Stability(side="views")
        )
        options: dict[str, Any] = {
            "curvature": ekfac(KEY, posed, of="alignment", num_samples=None), "mode": "paper", "damping": Damping(0.1),
        }  # fmt: skip
        own = self_influence(KEY, posed, view_groups=0, **options).values
        pairs = -influence(KEY, posed, posed.train.rows(slice(0, 20)), **options).values
        # kronfluence takes the mean over residuals, of which there are so many as outputs; we take their sum
        scale = len(params[-1]["bias"])
        for ours, theirs in ((own, stored[f"{name}_self"]), (pairs, stored[f"{name}_pairs"])):
            assert stats.spearmanr(ours.ravel(), theirs.ravel()).statistic > 0.99
            np.testing.assert_allclose(ours * scale, theirs, rtol=0, atol=1e-10 * np.abs(theirs).max())
