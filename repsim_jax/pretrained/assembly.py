"""How do named tensors of a file become the parameters of a flax module, with nothing missing and nothing left over?"""

import fnmatch
import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from repsim_jax.errors import CorruptFileError

Model = TypeVar("Model", bound=nnx.Module)


class Origin(NamedTuple):
    """Where one parameter of the module is in the file.

    Attributes:
        tensor: Name of the tensor in the file.
        change: What makes the parameter of the tensor (a transpose, a slice); must be cheap and must not guess.
    """

    tensor: str
    change: Callable[[np.ndarray], np.ndarray] = np.asarray


def transposed(array: np.ndarray) -> np.ndarray:
    """PyTorch's (out, in) matrix as flax's (in, out).

    Args:
        array: The matrix (out, in).

    Returns:
        The matrix (in, out).
    """
    return array.T


def kernel_last(array: np.ndarray) -> np.ndarray:
    """PyTorch's convolution kernel (out, in, height, width) as flax's (height, width, in, out).

    Args:
        array: The kernel (out, in, height, width).

    Returns:
        The kernel (height, width, in, out).
    """
    return array.transpose(2, 3, 1, 0)


def assemble(
    build: Callable[[], Model],
    tensors: Mapping[str, np.ndarray],
    origin_of: Callable[[str], Origin],
    *,
    path: str | os.PathLike[str],
    ignored: Iterable[str] = (),
) -> Model:
    """Builds the module without running its initializers and fills its parameters from the file, as float32.

    Args:
        build: Makes the module from a random key; traced abstractly, so it costs neither time nor memory.
        tensors: The file's tensors by name.
        origin_of: The parameter's path in the module ("block_3/attention/query/kernel") to its place in the file.
        path: The file, for messages.
        ignored: Globs of tensors that the file may hold besides (a classifier, a decoder).

    Returns:
        The module in inference mode.

    Raises:
        CorruptFileError: If a tensor is missing, has the wrong shape, is not finite, or if one is left over; names it.
    """
    graph, state = nnx.split(nnx.eval_shape(build))
    flat = dict(nnx.to_flat_state(state))
    used, filled = set(), {}
    for keys, variable in flat.items():
        origin = origin_of("/".join(map(str, keys)))
        if origin.tensor not in tensors:
            raise CorruptFileError(path, f"expected the tensor {origin.tensor!r}, which is missing. {_held(tensors)}")
        used.add(origin.tensor)
        filled[keys] = variable.replace(_parameter(origin, tensors[origin.tensor], variable.shape, path))
    ignored = tuple(ignored)
    extra = [
        name for name in tensors if name not in used and not any(fnmatch.fnmatchcase(name, one) for one in ignored)
    ]
    if extra:
        raise CorruptFileError(
            path,
            f"expected {len(used)} tensors, but the file also holds {', '.join(map(repr, extra[:5]))}"
            f"{f' and {len(extra) - 5} more' if len(extra) > 5 else ''}: this is another architecture than its "
            "configuration says. Check config.json against the weights.",
        )
    model = nnx.merge(graph, nnx.from_flat_state(filled))
    model.eval()
    return model


def _parameter(origin: Origin, tensor: np.ndarray, shape: tuple[int, ...], path: str | os.PathLike[str]) -> jnp.ndarray:
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise CorruptFileError(path, f"the tensor {origin.tensor!r} holds {tensor.dtype}; weights are floating-point.")
    try:
        array = np.ascontiguousarray(origin.change(tensor), dtype=np.float32)
    except (IndexError, ValueError):  # a transpose, slice or reshape of an array with other axes
        array = None
    if array is None or array.shape != shape:
        became = "" if array is None or array.shape == tensor.shape else f" ({array.shape} in the module's order)"
        raise CorruptFileError(
            path, f"the tensor {origin.tensor!r} has shape {tensor.shape}{became}, but the module wants {shape}."
        )
    if not np.isfinite(array).all():
        raise CorruptFileError(
            path, f"the tensor {origin.tensor!r} holds NaN or Inf: get the file again from where it came."
        )
    return jnp.asarray(array)


def _held(tensors: Mapping[str, np.ndarray]) -> str:
    names = sorted(tensors)
    return f"The file holds {len(names)} tensors: {', '.join(map(repr, names[:6]))}{', ...' if len(names) > 6 else '.'}"
