"""Which hidden layers does a model have, and what are they on these inputs? One protocol for every framework."""

import hashlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import jax
import numpy as np

from repsim_jax.errors import RepsimError, UnknownNameError

Outputs = Callable[[Any, Any], dict[str, Any]]


@runtime_checkable
class Tap(Protocol):
    """What ``extract`` needs of a model; write your own for a framework that is not here.

    Attributes:
        name: The model's name in tables and stores.
        channel_axis: Where maps of rank 4 hold their channels: -1 (flax) or 1 (PyTorch, ONNX).
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (documented above)

    @property
    def channel_axis(self) -> int: ...  # noqa: D102

    def layers(self, inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Names every hidden layer with its shape and dtype on ``inputs``, in the order of their computation.

        Args:
            inputs: What the model takes, leading axis b.

        Returns:
            A flat path ("block_3/attention/query") per layer.
        """
        ...

    def read(self, inputs: Any, names: tuple[str, ...]) -> dict[str, Any]:
        """Runs the model as at inference and returns the named layers.

        Args:
            inputs: What the model takes, leading axis b.
            names: Some of the names that ``layers`` gives.

        Returns:
            One array per name, as the model computes it.

        Raises:
            UnknownNameError: If a layer does not exist.
        """
        ...


@dataclass(frozen=True, eq=False)
class JaxTap:
    """A tap on a pure function of arrays: every JAX model becomes one.

    Attributes:
        name: The model's name.
        state: The model's arrays, a pytree; passed to the compiled program as an argument, never baked into it.
        outputs: ``outputs(state, inputs)``, traceable, returns {layer: array} in the order of computation.
        channel_axis: Maps are (b, h, w, c).
        default_layers: The layers that ``extract`` reads when it is told none; all where empty.
        default_layout: The layout policies that ``extract`` uses when it is told none.
    """

    name: str
    state: Any
    outputs: Outputs
    channel_axis: int = -1
    default_layers: tuple[str, ...] = ()
    default_layout: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        # NumPy weights would travel to the device again with every batch.
        on_device = jax.tree.map(
            lambda leaf: jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf, self.state
        )
        object.__setattr__(self, "state", on_device)

    def layers(self, inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Names every hidden layer without computing any, by abstract evaluation.

        Args:
            inputs: What the model takes, leading axis b.

        Returns:
            A flat path per layer, with its shape and dtype, in the order of computation.

        Raises:
            RepsimError: If the model fails on such inputs.
        """
        names: list[str] = []

        def ordered(state: Any, inputs: Any) -> tuple[Any, ...]:
            try:
                found = self.outputs(state, inputs)
            except RepsimError:
                raise
            except Exception as error:
                raise RepsimError(
                    f"the model {self.name} raised {type(error).__name__} on inputs {_shapes(inputs)}: {error} "
                    "Do these data, and how they are prepared, fit the model?"
                ) from error
            names.extend(found)
            return tuple(found.values())

        shapes = jax.eval_shape(ordered, self.state, inputs)
        return dict(zip(names, shapes, strict=True))

    def read(self, inputs: Any, names: tuple[str, ...]) -> dict[str, jax.Array]:
        """Runs the model, compiled once per input shape and set of names; layers not asked for are not kept.

        Args:
            inputs: What the model takes, leading axis b.
            names: Some of the names that ``layers`` gives.

        Returns:
            One array per name.

        Raises:
            UnknownNameError: If a layer does not exist.
        """
        return dict(zip(names, self._program(self.state, inputs, names), strict=True))

    def weights_sha256(self) -> str:
        """Tells these weights from others, so that a store of an earlier version is never taken for this one.

        Returns:
            The sha256 of every array of the state, in hexadecimal.
        """
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.state):
            is_key = jax.numpy.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    @cached_property
    def _program(self) -> Callable[..., tuple[jax.Array, ...]]:
        def chosen(state: Any, inputs: Any, names: tuple[str, ...]) -> tuple[jax.Array, ...]:
            found = self.outputs(state, inputs)
            return tuple(found[known_layer(name, found)] for name in names)

        return jax.jit(chosen, static_argnums=2)


def _shapes(inputs: Any) -> str:
    return ", ".join(f"{leaf.dtype} {leaf.shape}" for leaf in jax.tree.leaves(inputs))


def known_layer(name: str, known: Iterable[str]) -> str:
    """Passes on the name of a layer that exists.

    Args:
        name: What the user wrote.
        known: The layers that there are.

    Returns:
        ``name``.

    Raises:
        UnknownNameError: If it is not among ``known``; the message suggests the nearest.
    """
    known = tuple(known)
    if name not in known:
        raise UnknownNameError.of("layer", name, known)
    return name


def named_outputs(calls: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Gives every array that came out of a model's parts a flat, unique name.

    A part that is called again gets "#1", "#2", ...; an output that is a tuple or dict of arrays gives one layer each,
    "attention/0" or "attention/weights"; the model's own output is "output".

    Args:
        calls: (path of the part, "" for the whole model; what it returned), in the order of computation.

    Returns:
        {name: array}, in the order of ``calls``.
    """
    named: dict[str, Any] = {}
    times: Counter[str] = Counter()
    for path, output in calls:
        part = path or "output"
        call = f"{part}#{times[part]}" if times[part] else part
        times[part] += 1
        for suffix, leaf in _leaves(output):
            named[_fresh(f"{call}/{suffix}" if suffix else call, named)] = leaf
    return named


def _fresh(name: str, taken: Mapping[str, Any]) -> str:
    numbered = (f"{name}#{count}" for count in itertools.count(1))
    return name if name not in taken else next(candidate for candidate in numbered if candidate not in taken)


def _leaves(output: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        yield prefix, output
        return
    if isinstance(output, Mapping):
        parts = list(output.items())
    elif isinstance(output, tuple) and (fields := getattr(output, "_fields", ())):
        parts = list(zip(fields, output, strict=True))
    elif isinstance(output, tuple | list):
        parts = list(enumerate(output))
    else:
        return
    for key, part in parts:
        yield from _leaves(part, f"{prefix}/{key}" if prefix else str(key))


def tap(model: Any) -> Tap:
    """Finds out what kind of model this is and returns the tap that reads it; the model itself stays as it is.

    Args:
        model: One of: a ``flax.nnx.Module``; ``(flax.linen.Module, variables)``; ``(apply_fn, params)`` where
            ``apply_fn(params, x)`` returns a (nested) dict of arrays; the path of an ``.onnx`` file; a
            ``torch.nn.Module``; what ``repsim_jax.pretrained.load`` returns, or any object with ``.model`` and
            ``.prepare``; a ``Tap``.

    Returns:
        The tap. Models are read as at inference: dropout off, batch statistics fixed.

    Raises:
        RepsimError: If it is none of these.
        FileError: If the ONNX file cannot be read.
        MissingPackageError: If the file needs onnx or onnxruntime, which are not installed.
    """
    if hasattr(model, "model") and hasattr(model, "prepare"):
        return _with_defaults(model)
    if isinstance(model, str | os.PathLike):
        return _file_tap(Path(model))
    if isinstance(model, tuple) and len(model) == 2:
        return _pair_tap(*model)
    if _is_torch(model):
        from repsim_jax.activations.taps.pytorch import TorchTap

        return TorchTap(model)
    from flax import nnx

    if isinstance(model, nnx.Module):
        from repsim_jax.activations.taps.nnx import nnx_tap

        return nnx_tap(model)
    if isinstance(model, Tap):
        return model
    raise RepsimError(f"tap reads {_KINDS}; got {type(model).__module__}.{type(model).__qualname__}.")


_KINDS = (
    "a flax.nnx.Module, (flax.linen.Module, variables), (apply_fn, params), the path of an .onnx file, "
    "a torch.nn.Module, or a Tap"
)


def _with_defaults(loaded: Any) -> Tap:
    found = tap(loaded.model)
    name = getattr(loaded, "name", found.name)
    layers, layout = tuple(getattr(loaded, "layers", ())), dict(getattr(loaded, "layout", {}))
    if isinstance(found, JaxTap):
        return replace(found, name=name, default_layers=layers, default_layout=layout)
    vars(found).update(name=name, default_layers=layers, default_layout=layout)
    return found


def _file_tap(path: Path) -> Tap:
    if path.suffix.lower() != ".onnx":
        raise RepsimError(f"tap reads models from .onnx files, got {str(path)!r}. For other models pass {_KINDS}.")
    from repsim_jax.activations.taps.onnxfile import OnnxTap

    return OnnxTap(path)


def _pair_tap(model: Any, arrays: Any) -> Tap:
    from flax import linen

    if isinstance(model, linen.Module):
        from repsim_jax.activations.taps.linen import linen_tap

        return linen_tap(model, arrays)
    if not callable(model):
        raise RepsimError(
            "a pair must be (flax.linen.Module, variables) or (apply_fn, params); "
            f"its first part is {type(model).__name__}."
        )
    from repsim_jax.activations.taps.functions import function_tap

    return function_tap(cast(Any, model), arrays)


def _is_torch(model: Any) -> bool:
    torch = sys.modules.get("torch")  # a torch module can only come from somebody who has imported torch
    return torch is not None and isinstance(model, torch.nn.Module)
