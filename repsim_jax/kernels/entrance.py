"""Is what came to a kernel something that has one? Checked once, at the door."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError, RepsimError, UnknownNameError
from repsim_jax.kernels.models import Model
from repsim_jax.linalg import precise_jit

OUTPUTS = ("trace", "full", "sum")
# Examples in whose company the first is compared with itself alone.
_PROBED = 4
# A batch of one rounds its sums in another order than a batch of four; a model that mixes examples differs wholly.
_MIXED = {2: 0.2, 4: 1e-2, 8: 1e-6}


def checked_outputs(outputs: str | int) -> None:
    """Refuses layouts that do not exist.

    Args:
        outputs: "trace", "full", "sum", or the number of one output.

    Raises:
        UnknownNameError: If it is another one.
    """
    if is_number(outputs):
        return
    if outputs not in OUTPUTS:
        raise UnknownNameError.of("outputs", str(outputs), OUTPUTS)


def is_number(outputs: str | int) -> bool:
    """Tells the number of one output from the layouts of all.

    Args:
        outputs: As in ``ntk``.

    Returns:
        True for integers, of which none is a bool.
    """
    return isinstance(outputs, int | np.integer) and not isinstance(outputs, bool)


def checked_blocks(operation: str, **sizes: int | None) -> None:
    """Refuses blocks of nothing.

    Args:
        operation: For the message.
        **sizes: Sizes by name; None is no size.

    Raises:
        BadArrayError: If one is not a positive integer.
    """
    for name, size in sizes.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1):
            raise BadArrayError(f"{operation} needs a positive integer {name}, or None, got {size!r}.")


def checked_inputs(
    operation: str, model: Model, x: Any, y: Any, *, outputs: str | int = "trace"
) -> tuple[jax.Array, jax.Array | None]:
    """Checks examples and parameters, and that the model treats each example by itself.

    Args:
        operation: For messages.
        model: The model.
        x: Inputs of the rows.
        y: Inputs of the columns, or None.
        outputs: As in ``ntk``.

    Returns:
        Both as arrays.

    Raises:
        BadArrayError: If something is empty, NaN, infinite or of another shape, the model raises on these inputs, mixes
            examples, or has no output of that number.
    """
    x = _examples(operation, "x", x)
    y = None if y is None else _examples(operation, "y", y)
    if y is not None and (x.shape[1:], x.dtype) != (y.shape[1:], y.dtype):
        raise BadArrayError(
            f"{operation} compares inputs of one shape and dtype: got x {x.shape} {x.dtype} and y {y.shape} {y.dtype}."
        )
    leaves = [w for w in jax.tree.leaves(model.params) if jnp.issubdtype(w.dtype, jnp.inexact) and not is_traced(w)]
    if not _all_finite(leaves):
        raise BadArrayError(f"{operation}: parameters hold NaN or infinity; train the model anew or load it again.")
    _check_outputs(operation, model, x, outputs)
    return x, y


def _examples(operation: str, name: str, x: Any) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim < 1 or x.size == 0:
        raise BadArrayError(f"{operation} needs {name} (n, ...) with at least one example, got shape {x.shape}.")
    if jnp.issubdtype(x.dtype, jnp.inexact) and not is_traced(x) and not _all_finite([x]):
        bad = np.flatnonzero(~np.asarray(jnp.isfinite(x.reshape(len(x), -1)).all(1)))
        raise BadArrayError(f"{operation}: {name} holds NaN or infinity in {bad.size} rows, the first is {bad[0]}.")
    return x


def _all_finite(arrays: list[jax.Array]) -> bool:
    """Whether they are, as far as that can be told: inside of another program nothing is computed yet."""
    found = _finite(arrays)
    return is_traced(found) or bool(found)


@jax.jit
def _finite(arrays: list[jax.Array]) -> jax.Array:
    """One pass over each array: the door must cost little beside the kernel of a few hundred examples."""
    return jnp.asarray([jnp.isfinite(array).all() for array in arrays]).all()


def _check_outputs(operation: str, model: Model, x: jax.Array, outputs: str | int) -> None:
    rows = x[: min(_PROBED, len(x))]
    given = _shape_of_outputs(operation, model, rows)
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", jnp.int32)
    if not shape or shape[0] != len(rows) or 0 in shape or not jnp.issubdtype(dtype, jnp.floating):
        raise BadArrayError(
            f"{operation} needs a model from (n, ...) to floating-point outputs (n, ...), for any n; "
            f"{len(rows)} examples gave {given}."
        )
    count = math.prod(shape[1:])
    if is_number(outputs) and not 0 <= int(outputs) < count:
        raise BadArrayError(f"{operation}: outputs={outputs} is none of the {count} outputs, 0 to {count - 1}.")
    if any(map(is_traced, (x, *jax.tree.leaves((model.params, model.rest))))):
        return
    difference, largest = map(float, _mixing(model.apply, model.params, model.rest, rows))
    if not np.isfinite(largest):
        raise BadArrayError(f"{operation}: the model gives NaN or infinite outputs for the first {len(rows)} examples.")
    if not difference <= _MIXED[dtype.itemsize] * largest:
        raise BadArrayError(
            f"{operation} needs a model that treats each example by itself: outputs of an example change by "
            f"{difference:.2g} in the company of {len(rows) - 1} others (BatchNorm in training mode does this). "
            "Pass the model in evaluation mode."
        )


def _shape_of_outputs(operation: str, model: Model, rows: jax.Array) -> Any:
    try:
        return jax.eval_shape(model.apply, model.params, model.rest, rows)
    except RepsimError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise BadArrayError(
            f"{operation}: your model raised {type(error).__name__}: {said} on inputs {rows.shape} {rows.dtype}. "
            "Pass inputs of the shape that it takes, and compute with jax.numpy in the model: JAX cannot differentiate "
            "through NumPy or Python's own numbers."
        ) from error


@precise_jit(static_argnames=("apply",))
def _mixing(apply: Any, params: Any, rest: Any, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How much the first example's outputs differ between all examples at once and alone, and the largest output."""
    together, alone = apply(params, rest, rows), apply(params, rest, rows[:1])
    return jnp.abs(together[:1] - alone).max(), jnp.abs(together).max()
