"""Reads PyTorch's file format of before 2020 without PyTorch: private, for the pinned EfficientNet files alone.

Such a file is a pickle, and a pickle can run code. Two things make reading these safe: their sha256 was checked before,
and the unpickler below knows four names and refuses all others. It is still never offered for files of users, who get
the advice to save safetensors instead.
"""

import collections
import io
import pickle
from typing import Any, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # the first object of every such file, from torch.serialization
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _View(NamedTuple):
    """A tensor that is a strided view of a storage which comes later in the file."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state(content: bytes) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
        content: The bytes of the file, already checked against the pinned sha256.

    Returns:
        Arrays by name.

    Raises:
        pickle.UnpicklingError: If the file is of another format, or names anything but tensors.

    Source:
        ``torch.serialization._legacy_save``: magic number, protocol, system, objects, storage keys, storages.
    """
    file = io.BytesIO(content)
    dtypes: dict[str, np.dtype] = {}
    if _Unpickler(file, dtypes).load() != _MAGIC:
        raise pickle.UnpicklingError("expected a PyTorch file of the format before 2020.")
    _protocol, _system, views, keys = (_Unpickler(file, dtypes).load() for _ in range(4))
    storages = {}
    for key in keys:
        (count,) = np.frombuffer(file.read(8), "<i8")
        storages[key] = np.frombuffer(file.read(int(count) * dtypes[key].itemsize), dtypes[key])
    return {name: _strided(view, storages[view.storage]) for name, view in views.items()}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, dtypes: dict[str, np.dtype]):
        super().__init__(file)
        self._dtypes = dtypes

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"expected tensors only, got {module}.{name}.")

    def persistent_load(self, pid: Any, /) -> str:
        _kind, dtype, key, _device, _count, _view = pid
        self._dtypes[key] = dtype
        return key


def _rebuild(storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_unused: Any) -> _View:
    return _View(storage, offset, shape, strides)


def _strided(view: _View, storage: np.ndarray) -> np.ndarray:
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if not 0 <= view.offset <= last < len(storage):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage.")
    strides = tuple(stride * storage.itemsize for stride in view.strides)
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()
