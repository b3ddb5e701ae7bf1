"""Compiled functions whose matrix products keep full float32 accuracy on every backend."""

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def precise_jit(*, static_argnames: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compiles a function with matrix products in full precision.

    GPUs and TPUs multiply float32 matrices in TF32 or bfloat16 by default, which moves a similarity in its third digit.

    Args:
        static_argnames: Keyword arguments that change the compiled program.

    Returns:
        A decorator like ``jax.jit``.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def traced(*args: P.args, **kwargs: P.kwargs) -> R:
            with jax.default_matmul_precision("highest"):
                return function(*args, **kwargs)

        return jax.jit(traced, static_argnames=tuple(static_argnames))

    return decorate
