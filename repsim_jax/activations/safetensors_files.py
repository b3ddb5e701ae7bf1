"""safetensors files, parsed without a copy and more strictly than the format's own library.

Source: https://github.com/huggingface/safetensors (README, "Format").
Differs: Refuses duplicate names and headers over 8 MB, which the library reads.
"""

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from repsim_jax.activations.contents import Contents, ids_from_json
from repsim_jax.errors import BadArrayError

# A header of this size names some 80,000 tensors; far larger ones were seen to take 39 s to parse.
MAX_HEADER = 8 * 10**6
_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    "BOOL": np.dtype(bool),
}


def read_safetensors(data: bytes, path: Path) -> Contents:  # noqa: ARG001 (every reader has this signature)
    """Reads a safetensors file.

    Args:
        data: The file's bytes.
        path: Not used.

    Returns:
        Its tensors in natural order of their names; the metadata key ``ids``, a JSON list, as ids.

    Raises:
        ValueError: If it is not a whole safetensors file.
        KeyError: If a tensor's entry lacks a field.
        BadArrayError: If a tensor has a dtype that numpy cannot hold.
    """
    (length,) = struct.unpack_from("<Q", data)
    if length > MAX_HEADER or 8 + length > len(data):
        raise ValueError(
            f"its header says it has {length} bytes; at most {min(MAX_HEADER, len(data) - 8)} are possible"
        )
    header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_unique)
    metadata = header.pop("__metadata__", {})
    ordered = sorted(
        header.items(), key=lambda item: [int(part) if part.isdecimal() else part for part in _parts(item[0])]
    )
    arrays = {name: _tensor(name, entry, data, 8 + length) for name, entry in ordered}
    _check_tiling(header, len(data) - 8 - length)
    return Contents(arrays, ids_from_json(metadata["ids"]) if "ids" in metadata else None)


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return dict(pairs)


def _tensor(name: str, entry: dict[str, Any], data: bytes, base: int) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise BadArrayError(f"tensor {name!r} has dtype {entry['dtype']!r}: one of {', '.join(_DTYPES)} is needed.")
    dtype, shape, (start, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if any(type(size) is not int or size < 0 for size in (start, end, *shape)):
        raise ValueError(f"tensor {name!r} has a shape or an offset that is no size")
    if end - start != math.prod(shape) * dtype.itemsize or end > len(data) - base:
        raise ValueError(f"tensor {name!r} of shape {shape} does not fill its bytes {start} to {end}")
    if start == end:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype, math.prod(shape), base + start).reshape(shape)


def _check_tiling(header: dict[str, Any], num_bytes: int) -> None:
    place = 0
    for start, end in sorted(tuple(entry["data_offsets"]) for entry in header.values()):
        if start != place:
            raise ValueError(f"its tensors leave a hole or overlap at byte {min(start, place)}")
        place = end
    if place != num_bytes:
        raise ValueError(f"its tensors end at byte {place} of {num_bytes}")
