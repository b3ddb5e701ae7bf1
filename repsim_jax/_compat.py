"""The one place for names that differ between the supported versions of JAX (0.7.2 to the newest)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.core import Tracer


def enable_x64() -> AbstractContextManager[None]:
    """Computes in float64 where it is asked for, as long as the ``with`` block lasts.

    The public context manager moved: ``jax.experimental.enable_x64`` up to JAX 0.8, ``jax.enable_x64`` since then.
    """
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64 as before  # pyright: ignore[reportAttributeAccessIssue]

    return before()


def is_traced(x: object) -> bool:
    """Tells an array that ``jax.jit`` or ``jax.grad`` is tracing from one with numbers that can be looked at.

    ``jax.core`` is half public; this one name of it is documented, and has no other home.

    Args:
        x: Anything.

    Returns:
        True inside a transformation.
    """
    return isinstance(x, Tracer)


def bound(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Evaluates one equation of a jaxpr.

    ``get_bind_params`` gives the functions of ``custom_jvp`` and its like apart from the parameters up to JAX 0.9, and
    among them since then.

    Args:
        eqn: An equation of what ``jax.make_jaxpr`` returned.
        values: Of its inputs.

    Returns:
        The values of its outputs.
    """
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*functions, *values, **params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]
