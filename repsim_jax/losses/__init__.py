"""Losses that learn representations from which examples belong together, without labels or with them."""

from repsim_jax.losses.contrastive import max_margin, mean_positive, pairwise_logits, supervised_contrastive
from repsim_jax.losses.self_supervised import (
    barlow_twins,
    covariance_matrix,
    cross_correlation,
    negative_cosine,
    nt_xent,
    nt_xent_logits,
    spectral_contrastive,
    vicreg,
)

__all__ = [
    "barlow_twins",
    "covariance_matrix",
    "cross_correlation",
    "max_margin",
    "mean_positive",
    "negative_cosine",
    "nt_xent",
    "nt_xent_logits",
    "pairwise_logits",
    "spectral_contrastive",
    "supervised_contrastive",
    "vicreg",
]
