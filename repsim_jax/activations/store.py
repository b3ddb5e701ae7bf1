"""Where do hidden layers live? In a folder of zarr3 arrays with a manifest: its writer and its reader.

The folder: ``manifest.json`` (layers, ids, metadata, sha256 and size of every file), and per layer a folder that is a
zarr3 array (``zarr.json``, ``c.0.0``, ``c.1.0``, ...; codecs bytes, zstd, crc32c; a chunk is ``chunk_rows`` rows).
While a writer is at work there is ``journal.jsonl`` in place of the manifest, and no ``zarr.json``, so no zarr reader
takes a half-written array for a whole one.
"""

from repsim_jax.activations.reader import Store, memory_needed, open_store
from repsim_jax.activations.writer import StoreWriter

__all__ = ["Store", "StoreWriter", "memory_needed", "open_store"]
