"""What are the hidden layers of a plain function? Whatever arrays it returns, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from repsim_jax.activations.tap import JaxTap, named_outputs
from repsim_jax.errors import RepsimError


def function_tap(apply_fn: Callable[[Any, Any], Mapping[str, Any]], params: Any) -> JaxTap:
    """Taps a pure function that returns its own hidden layers.

    Args:
        apply_fn: ``apply_fn(params, x)``, traceable by JAX, returns {name: array (b, ...)}; nested dicts are joined by
            "/". Maps of rank 4 are (b, h, w, c).
        params: A pytree of arrays.

    Returns:
        The tap; its layers come in the order of the dict.
    """
    name = getattr(apply_fn, "__name__", type(apply_fn).__name__)

    def outputs(params: Any, inputs: Any) -> dict[str, Any]:
        found = apply_fn(params, inputs)
        if not isinstance(found, Mapping):
            raise RepsimError(
                f"{name}(params, x) must return a dict {{layer: array}}, got {type(found).__name__}. "
                "Return the hidden layers that you want to read."
            )
        return named_outputs((str(key), value) for key, value in found.items())

    return JaxTap(name, params, outputs)
