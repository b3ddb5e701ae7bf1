"""Is my wide contrastive network just a kernel, or PCA?  arXiv 2403.08673, its claims put to the test."""

from repsim_jax.theory.claims import Claim, Series, Setup
from repsim_jax.theory.courses import Course
from repsim_jax.theory.networks import Network
from repsim_jax.theory.objectives import Objective
from repsim_jax.theory.pca import contrastive_pca
from repsim_jax.theory.triplets import Triplets, triplets
from repsim_jax.theory.verification import drift, verify

__all__ = [
    "Claim",
    "Course",
    "Network",
    "Objective",
    "Series",
    "Setup",
    "Triplets",
    "contrastive_pca",
    "drift",
    "triplets",
    "verify",
]
