"""What does every part of a PyTorch module compute? Reads them with forward hooks; torch itself comes from the user."""

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from repsim_jax.activations.tap import known_layer, named_outputs


class TorchTap:
    """The output of every submodule of a ``torch.nn.Module``, named by its path with "/": "layer1/0/conv1".

    Of a tuple, list or dict of outputs the first tensor is read. A submodule called again gives "name#1"; the model's
    own output is "output". The model runs in evaluation mode without gradients; its mode is put back and the hooks are
    taken out whatever happens. A dict of inputs is passed as keyword arguments.

    Attributes:
        name: The class of the module.
        channel_axis: Maps are (b, c, h, w).
    """

    def __init__(self, module: Any):
        self.name = type(module).__name__
        self.channel_axis = 1
        self._module = module

    def weights_sha256(self) -> str:
        """Tells these weights from others.

        Returns:
            The sha256 of every tensor of the module's state, in hexadecimal.
        """
        import torch

        digest = hashlib.sha256()
        for name, value in self._module.state_dict().items():
            digest.update(f"{name} {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}".encode())
            if isinstance(value, torch.Tensor):
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def layers(self, inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Names every layer with its shape, by one forward pass that keeps no activations.

        Args:
            inputs: Arrays with leading axis b, or a dict of them.

        Returns:
            A flat path per layer, in the order of computation.
        """
        return self._forward(inputs, _shape_of)

    def read(self, inputs: Any, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Runs the model and returns copies of the named layers.

        Args:
            inputs: Arrays with leading axis b, or a dict of them.
            names: Some of the names that ``layers`` gives.

        Returns:
            One array per name; bfloat16 comes as float32.

        Raises:
            UnknownNameError: If a layer does not exist.
        """
        wanted = {name.split("#")[0] for name in names}
        found = self._forward(inputs, _copy_of, wanted)
        unknown = [name for name in names if name not in found]
        if unknown:
            known_layer(unknown[0], self.layers(inputs))
        return {name: found[name] for name in names}

    def _forward(self, inputs: Any, taken: Callable[[Any], Any], wanted: set[str] | None = None) -> dict[str, Any]:
        torch = _torch()
        calls: list[tuple[str, Any]] = []
        with _hooked(self._module, calls, taken, wanted), _evaluating(self._module), torch.no_grad():
            first = next(iter(self._module.parameters()), None)
            device = "cpu" if first is None else first.device
            if isinstance(inputs, Mapping):
                self._module(**{key: _tensor(value, device) for key, value in inputs.items()})
            else:
                self._module(_tensor(inputs, device))
        return named_outputs(calls)


@contextlib.contextmanager
def _hooked(
    module: Any, calls: list[tuple[str, Any]], taken: Callable[[Any], Any], wanted: set[str] | None
) -> Iterator[None]:
    def recording(path: str) -> Callable[[Any, Any, Any], None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            tensor = _first_tensor(output)
            if tensor is not None:  # taken at once: a later in-place operation would overwrite it
                calls.append((path, taken(tensor)))

        return hook

    handles = []
    try:
        for dotted, part in module.named_modules():
            path = dotted.replace(".", "/")
            if wanted is None or (path or "output") in wanted:
                handles.append(part.register_forward_hook(recording(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


def _tensor(value: Any, device: Any) -> Any:
    torch = _torch()
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return torch.from_numpy(np.array(value)).to(device)  # a copy: torch warns about arrays that cannot be written


def _first_tensor(output: Any) -> Any:
    torch = _torch()
    if isinstance(output, torch.Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


def _copy_of(tensor: Any) -> np.ndarray:
    torch = _torch()
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).cpu().numpy().copy()


def _shape_of(tensor: Any) -> jax.ShapeDtypeStruct:
    torch = _torch()
    kind = torch.float32 if tensor.dtype is torch.bfloat16 else tensor.dtype
    return jax.ShapeDtypeStruct(tuple(tensor.shape), torch.empty(0, dtype=kind).numpy().dtype)


def _torch() -> Any:
    return sys.modules["torch"]  # imported by whoever made the module
