"""One block of rows of one layer as the bytes of one zarr3 chunk, and back.

tensorstore encodes into its in-memory key-value store: the bytes that are hashed are the bytes that go to disk, and on
the way back the bytes whose hash was checked are the bytes that are decoded. The files are an ordinary zarr3 array.

Source: the zarr v3 core specification, https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html
"""

from typing import Any

import ml_dtypes
import numpy as np
import tensorstore

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
ARRAY_FILE = "zarr.json"


def chunk_file(index: int) -> str:
    """Name of the file of one chunk inside its layer's folder.

    Args:
        index: Number of the block of rows, from 0.

    Returns:
        The zarr3 chunk key with "." as separator; the second grid axis has one chunk, as every row is stored whole.
    """
    return f"c.{index}.0"


def encode(rows: np.ndarray, chunk_rows: int) -> bytes:
    """Bytes of the chunk file that holds ``rows``.

    Args:
        rows: (b, d) with b <= chunk_rows, of one of ``DTYPES``; rows up to chunk_rows are filled with zeros.
        chunk_rows: Rows of a whole chunk.

    Returns:
        The chunk, compressed by zstd, with its crc32c.
    """
    array = _in_memory(rows.dtype.name, (chunk_rows, rows.shape[1]), chunk_rows)
    padded = rows
    if rows.shape[0] < chunk_rows:
        padded = np.zeros((chunk_rows, rows.shape[1]), rows.dtype)
        padded[: rows.shape[0]] = rows
    array.write(padded).result()
    return array.kvstore.read(chunk_file(0)).result().value


def decode(data: bytes, dtype: np.dtype, chunk_rows: int, width: int) -> np.ndarray:
    """Rows of one chunk file.

    Args:
        data: The file's bytes, already checked against the manifest.
        dtype: One of ``DTYPES``' values.
        chunk_rows: Rows of a whole chunk.
        width: Features d of the layer.

    Returns:
        (chunk_rows, d) of ``dtype``; of the last chunk of a store, only the rows that exist mean anything.

    Raises:
        ValueError: If the bytes are not such a chunk.
    """
    array = _in_memory(dtype.name, (chunk_rows, width), chunk_rows)
    array.kvstore.write(chunk_file(0), data).result()
    return array.read().result()


def array_description(dtype: np.dtype, num_rows: int, chunk_rows: int, width: int) -> bytes:
    """The ``zarr.json`` that makes a folder of chunk files a zarr3 array.

    Args:
        dtype: One of ``DTYPES``' values.
        num_rows: Rows n of the whole array.
        chunk_rows: Rows of a whole chunk.
        width: Features d of the layer.

    Returns:
        The file's bytes, as tensorstore writes them.
    """
    return _in_memory(dtype.name, (num_rows, width), chunk_rows).kvstore.read(ARRAY_FILE).result().value


def _in_memory(dtype: str, shape: tuple[int, int], chunk_rows: int) -> Any:
    grid = {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, shape[1]]}}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "memory"},
        # A chunk of zeros is data (a dead layer), and must be a file: an absent file has to mean damage.
        "store_data_equal_to_fill_value": True,
        "metadata": {
            "shape": list(shape),
            "data_type": dtype,
            "fill_value": 0.0,
            "chunk_grid": grid,
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                # Floats of a network hardly compress (8 to 22 % measured): the level that costs least time.
                {"name": "zstd", "configuration": {"level": 1}},
                {"name": "crc32c"},
            ],
        },
    }
    return tensorstore.open(spec, create=True, open=True, context=tensorstore.Context()).result()
