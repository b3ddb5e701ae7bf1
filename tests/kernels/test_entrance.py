"""What has no tangent kernel is refused at the door, with what to do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from kernels.test_empirical import TWO_LAYER, X, Y, two_layer

from repsim_jax.errors import BadArrayError, RepsimError, UnknownNameError
from repsim_jax.kernels.empirical import ntk, ntk_diagonal


def test_mixing_examples_is_refused():
    class Normed(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return linen.BatchNorm(use_running_average=False)(linen.Dense(4)(x))

    variables = Normed().init(jax.random.key(0), X)

    def function(params: Any, x: jax.Array) -> jax.Array:
        return Normed().apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    with pytest.raises(BadArrayError, match=r"treats each example by itself.*evaluation mode"):
        ntk(function, variables["params"], X)


@pytest.mark.parametrize(
    ("call", "error_", "match"),
    [
        (lambda: ntk(two_layer, TWO_LAYER, X, outputs="traced"), UnknownNameError, "no outputs is called 'traced'"),
        (lambda: ntk(two_layer, TWO_LAYER, X, block=0), BadArrayError, "positive integer block"),
        (lambda: ntk(two_layer, TWO_LAYER, X, block=2.5), BadArrayError, "positive integer block"),
        (lambda: ntk(two_layer, TWO_LAYER, X, output_block=1, outputs="full"), BadArrayError, "outputs='trace' only"),
        (lambda: ntk(two_layer, TWO_LAYER, X[:0]), BadArrayError, "at least one example"),
        (lambda: ntk(two_layer, TWO_LAYER, np.full_like(X, np.nan)), BadArrayError, "NaN or infinity in 7 rows"),
        (lambda: ntk(two_layer, TWO_LAYER, X, Y[:, :4]), BadArrayError, "one shape and dtype"),
        (lambda: ntk(two_layer, {"v": np.inf * TWO_LAYER["v"], "w": TWO_LAYER["w"]}, X), BadArrayError, "parameters"),
        (lambda: ntk(two_layer, None, X), RepsimError, "needs its parameters"),
        (lambda: ntk(3, TWO_LAYER, X), RepsimError, "flax module or a function"),
        (lambda: ntk(linen.Dense(3), TWO_LAYER, X), RepsimError, "as module.init returned"),
        (lambda: ntk(lambda p, x: x.sum(), TWO_LAYER, X), BadArrayError, "4 examples gave"),
        (lambda: ntk(lambda p, x: jnp.argmax(x, 1), TWO_LAYER, X), BadArrayError, "floating-point outputs"),
        (lambda: ntk(lambda p, x: jnp.log(-jnp.abs(x)), TWO_LAYER, X), BadArrayError, "NaN or infinite outputs"),
        (lambda: ntk(lambda p, x: x, {"count": np.arange(3)}, X), BadArrayError, "floating-point parameters"),
        (lambda: ntk_diagonal(two_layer, TWO_LAYER, X, block=-1), BadArrayError, "ntk_diagonal needs a positive"),
    ],
)  # fmt: skip
def test_what_has_no_kernel_is_refused(call: Callable[[], Any], error_: type[Exception], match: str):
    with pytest.raises(error_, match=match):
        call()
