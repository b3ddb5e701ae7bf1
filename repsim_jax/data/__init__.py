"""Batches of real examples, each with an id that follows it into every table and store."""

from repsim_jax.data.batches import Batch, batched

__all__ = ["Batch", "batched"]
