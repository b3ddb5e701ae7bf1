"""Losses that learn representations from which examples belong together, without labels or with them."""

from repsim_jax.losses.contrastive import max_margin, mean_positive, pairwise_logits, supervised_contrastive

__all__ = ["max_margin", "mean_positive", "pairwise_logits", "supervised_contrastive"]
