"""What does every part of a flax.linen module compute? Reads them through linen's own ``capture_intermediates``."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from flax import linen

from repsim_jax.activations.tap import JaxTap, named_outputs
from repsim_jax.errors import RepsimError
from repsim_jax.inference import inference_arguments

_COLLECTION = "intermediates"


def linen_tap(module: linen.Module, variables: Any) -> JaxTap:
    """Taps the output of every submodule, named by its path: "block_3/attention/query"; the model's own is "output".

    What the model itself sows into "intermediates" becomes a layer too. The switches ``train``, ``training``,
    ``is_training`` (False) and ``deterministic``, ``use_running_average`` (True) are passed where ``__call__`` takes
    them. Nothing but the intermediates is mutable, so batch statistics stay as they are.

    Args:
        module: Any module whose ``__call__`` takes the inputs as its one positional argument.
        variables: What ``module.init`` returned: {"params": ...} and further collections.

    Returns:
        The tap.

    Raises:
        RepsimError: If ``variables`` is not a mapping of collections.
    """
    if not isinstance(variables, Mapping):
        raise RepsimError(
            f"a linen model is tapped as (module, variables), variables being what module.init returned; "
            f"got {type(variables).__name__}."
        )
    switches: dict[str, Any] = {**inference_arguments(type(module).__call__)}

    def outputs(variables: Any, inputs: Any) -> dict[str, Any]:
        order: list[str] = []

        def finished(part: linen.Module, method: str) -> bool:
            if method == "__call__":
                order.append("/".join(map(str, part.path)))
            return method == "__call__"

        _, captured = module.apply(variables, inputs, **switches, capture_intermediates=finished, mutable=[_COLLECTION])
        return named_outputs(_in_order(order, dict(_sown(cast(Mapping[str, Any], captured.get(_COLLECTION) or {})))))

    kept = {name: collection for name, collection in variables.items() if name != _COLLECTION}
    return JaxTap(type(module).__name__, kept, outputs)


def _sown(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[Any]]]:
    """Lists (path of the part, what it returned at each call), and (path/name, values) of what the model sowed."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _sown(value, (*path, name))
        else:
            values = list(value) if isinstance(value, tuple) else [value]
            yield "/".join(path if name == "__call__" else (*path, name)), values


def _in_order(order: list[str], sown: dict[str, list[Any]]) -> Iterator[tuple[str, Any]]:
    for path in order:
        if sown.get(path):  # a lifted transform (scan, remat) may trace a part twice and return it once
            yield path, sown[path].pop(0)
    for path, values in sown.items():
        yield from ((path, value) for value in values)
