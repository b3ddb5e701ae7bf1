"""Real examples and batches of them, each with an id that follows it into every table and store."""

from repsim_jax.data.batches import Batch, batched
from repsim_jax.data.sources import Source, open_source

__all__ = ["Batch", "Source", "batched", "open_source"]
