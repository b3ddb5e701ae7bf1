"""Losses that learn representations from which examples belong together, without labels or with them."""

from repsim_jax.losses.contrastive import max_margin, mean_positive, pairwise_logits, supervised_contrastive
from repsim_jax.losses.self_supervised import barlow_twins, nt_xent, spectral_contrastive, vicreg

__all__ = [
    "barlow_twins",
    "max_margin",
    "mean_positive",
    "nt_xent",
    "pairwise_logits",
    "spectral_contrastive",
    "supervised_contrastive",
    "vicreg",
]
