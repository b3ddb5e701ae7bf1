"""The one place for names that differ between the supported versions of JAX (0.7.2 to the newest)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, NamedTuple

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


@contextmanager
def trace_of(x: object) -> Iterator[None]:
    """Computes in the transformation that is tracing ``x``, wherever an inner context has led.

    Args:
        x: An array; one that is not traced changes nothing.

    Yields:
        Nothing.
    """
    if not isinstance(x, Tracer):
        yield
        return
    from jax import core
    from jax.extend import core as extended

    # It moved from jax.core (0.7) to jax.extend.core.
    set_trace = getattr(extended, "set_current_trace", None) or core.set_current_trace  # pyright: ignore
    with set_trace(x._trace):
        yield


class Internals(NamedTuple):
    """Names of JAX that are half public, for ``kernels``, which mends a library written for older versions.

    Attributes:
        core: The module ``jax.core``.
        ad: The module ``jax.interpreters.ad``.
        lent_to_core: What ``jax.core`` held up to 0.5 and ``jax.extend.core`` holds now.
        transform_name_stack: Labels what a transformation computes, in profiles.
    """

    core: ModuleType
    ad: ModuleType
    lent_to_core: dict[str, Any]
    transform_name_stack: Callable[[str], Any]


def internals() -> Internals:
    """Looks the half-public names up, of which none is needed before it is asked for.

    Returns:
        The names, in whichever module this version of JAX keeps them.
    """
    from jax import core
    from jax.extend import core as extended
    from jax.extend import linear_util, source_info_util  # noqa: F401  (the first is only loaded, for others)
    from jax.interpreters import ad

    moved = {name: getattr(extended, name) for name in ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive")}
    return Internals(core, ad, moved, source_info_util.transform_name_stack)


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
