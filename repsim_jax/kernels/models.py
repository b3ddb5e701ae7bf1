"""How does a model of any kind become a function of its parameters, hashable, so that it is compiled once?"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from repsim_jax.errors import BadArrayError, RepsimError, UnknownNameError
from repsim_jax.inference import inference_arguments


@dataclass(frozen=True)
class Plain:
    """A function ``apply_fn(params, x)``."""

    function: Callable[[Any, jax.Array], jax.Array]

    def __call__(self, params: Any, _: Any, x: jax.Array) -> jax.Array:
        """Applies it.

        Args:
            params: Parameters.
            _: No other state.
            x: Inputs.

        Returns:
            Outputs.
        """
        return self.function(params, x)


@dataclass(frozen=True)
class Nnx:
    """The structure of a ``flax.nnx`` module."""

    graphdef: Any
    switches: tuple[tuple[str, bool], ...]

    def __call__(self, params: Any, rest: Any, x: jax.Array) -> jax.Array:
        """Merges and calls it.

        Args:
            params: State of its ``nnx.Param`` variables.
            rest: All other state.
            x: Inputs.

        Returns:
            Outputs.
        """
        from flax import nnx

        return nnx.merge(self.graphdef, params, rest)(x, **dict(self.switches))


@dataclass(frozen=True)
class Linen:
    """A ``flax.linen`` module without its variables."""

    module: Any
    switches: tuple[tuple[str, bool], ...]

    def __call__(self, params: Any, rest: Any, x: jax.Array) -> jax.Array:
        """Applies it.

        Args:
            params: The collection "params".
            rest: All other collections.
            x: Inputs.

        Returns:
            Outputs.
        """
        return self.module.apply({"params": params, **rest}, x, **dict(self.switches))


@dataclass(frozen=True)
class Selected:
    """A model of which only some parameters take part."""

    apply: Callable[[Any, Any, jax.Array], jax.Array]
    tree: Any
    names: tuple[str | None, ...]

    def __call__(self, params: Any, rest: Any, x: jax.Array) -> jax.Array:
        """Puts all parameters together and applies the model.

        Args:
            params: Those that take part, by path.
            rest: The others, in their order, and the other state of the model.
            x: Inputs.

        Returns:
            Outputs.
        """
        others = iter(rest[0])
        leaves = [next(others) if name is None else params[name] for name in self.names]
        return self.apply(jax.tree_util.tree_unflatten(self.tree, leaves), rest[1], x)


class Model(NamedTuple):
    """A function of parameters, in three parts.

    Attributes:
        apply: ``apply(params, rest, x)``; hashable, and equal for equal models.
        params: What the kernel differentiates by.
        rest: State that stays as it is (batch statistics, counters).
    """

    apply: Callable[[Any, Any, jax.Array], jax.Array]
    params: Any
    rest: Any


def as_model(model: Any, params: Any = None, params_filter: str | None = None) -> Model:
    """Takes a model of any kind apart.

    Modules are read in evaluation mode: nnx modules as a copy of which ``eval()`` was called, and the switches
    ``train``, ``training``, ``is_training`` (False), ``deterministic``, ``use_running_average`` (True) are passed to
    each module whose ``__call__`` takes them.

    Args:
        model: A ``flax.nnx`` module, a ``flax.linen`` module, or a function ``apply_fn(params, x)``.
        params: For a linen module what ``init`` returned; for a function its parameters, any pytree; for an nnx module
            None, or parameters (``nnx.state(module, nnx.Param)``) to use in place of its own.
        params_filter: Regular expression; the parameters in whose path ("block_0/convolution/kernel") it is found take
            part, and the others stay as they are. None: all.

    Returns:
        The parts.

    Raises:
        RepsimError: If it is none of these, the parameters are missing, or the filter is no regular expression.
        UnknownNameError: If the filter is found in no path.
    """
    parts = _whole(model, params)
    return parts if params_filter is None else _selected(parts, params_filter)


def _selected(parts: Model, params_filter: str) -> Model:
    try:
        pattern = re.compile(params_filter)
    except (re.error, TypeError) as error:
        raise RepsimError(
            f"params_filter is no regular expression: {params_filter!r} ({error}). "
            "Pass one that is found in the paths of parameters, such as 'block_0/' or 'kernel$'."
        ) from error
    flat, tree = jax.tree_util.tree_flatten_with_path(parts.params)
    paths = [_name(path) for path, _ in flat]
    names = tuple(path if pattern.search(path) else None for path in paths)
    if not any(names):
        listed = ", ".join(paths[:20]) + (f", and {len(paths) - 20} more" if len(paths) > 20 else "")
        raise UnknownNameError(f"no parameter's path matches {params_filter!r}. Paths are: {listed}.")
    chosen = {name: leaf for name, (_, leaf) in zip(names, flat, strict=True) if name is not None}
    others = tuple(leaf for name, (_, leaf) in zip(names, flat, strict=True) if name is None)
    return Model(Selected(parts.apply, tree, names), chosen, (others, parts.rest))


def _whole(model: Any, params: Any) -> Model:
    kind = {f"{base.__module__}.{base.__name__}" for base in type(model).__mro__}
    if any(name.startswith("flax.nnx") and name.endswith(".Module") for name in kind):
        return _nnx_model(model, params)
    if params is None:
        raise RepsimError(f"a kernel of {type(model).__name__} needs its parameters: pass them as the second argument.")
    if any(name.startswith("flax.linen") and name.endswith(".Module") for name in kind):
        if not isinstance(params, Mapping) or "params" not in params:
            raise RepsimError("a linen model needs its variables {'params': ...}, as module.init returned them.")
        rest = {name: collection for name, collection in params.items() if name != "params"}
        return Model(Linen(model, _switches(model)), params["params"], rest)
    if not callable(model):
        raise RepsimError(f"expected a flax module or a function apply_fn(params, x), got {type(model).__name__}.")
    return Model(Plain(cast(Callable[[Any, jax.Array], jax.Array], model)), params, ())


def _nnx_model(model: Any, params: Any) -> Model:
    from flax import nnx

    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    graphdef, own, rest = nnx.split(copy, nnx.Param, ...)
    return Model(Nnx(graphdef, _switches(model)), own if params is None else params, rest)


def _switches(model: Any) -> tuple[tuple[str, bool], ...]:
    return tuple(inference_arguments(type(model).__call__).items())


class Leaves(NamedTuple):
    """The parameters in a row.

    Attributes:
        names: Paths, such as "block_0/convolution/kernel".
        arrays: The floating-point parameters.
        restore: Puts such arrays back into the tree, the others as they were.
    """

    names: tuple[str, ...]
    arrays: list[jax.Array]
    restore: Callable[[Any], Any]


def leaves_of(params: Any) -> Leaves:
    """Lists the floating-point leaves of a tree.

    Args:
        params: Any pytree.

    Returns:
        The leaves.

    Raises:
        BadArrayError: If there are none.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    chosen = [i for i, (_, leaf) in enumerate(flat) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    if not chosen:
        raise BadArrayError("a tangent kernel needs floating-point parameters; there are none in params.")

    def restore(arrays: Any) -> Any:
        every = [leaf for _, leaf in flat]
        for i, array in zip(chosen, arrays, strict=True):
            every[i] = array
        return jax.tree_util.tree_unflatten(tree, every)

    names = tuple(_name(flat[i][0]) for i in chosen)
    return Leaves(names, [jnp.asarray(flat[i][1]) for i in chosen], restore)


def _name(path: Any) -> str:
    """Keys joined by slashes; the ".value" with which nnx wraps a leaf is no part of its name."""
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    if len(parts) > 1 and parts[-1] == "value":
        parts.pop()
    return "/".join(parts)


def layer_name(leaf: str) -> str:
    """The layer to which a parameter belongs: its path without the last part, or its own name at the top.

    Args:
        leaf: Path of the parameter.

    Returns:
        A path.
    """
    return leaf.rpartition("/")[0] or leaf
