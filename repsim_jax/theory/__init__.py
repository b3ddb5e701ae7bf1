"""Is my wide contrastive network just a kernel, or PCA?  arXiv 2403.08673, its claims put to the test."""

from repsim_jax.theory.advice import Advice, Learner, advise
from repsim_jax.theory.beyond import beyond_the_theory
from repsim_jax.theory.beyond_pca import beyond_pca
from repsim_jax.theory.claims import Claim, Series, Setup
from repsim_jax.theory.courses import Course
from repsim_jax.theory.kernel_learner import KernelFlow, PairObjective, kernel_flow, pair_contrast
from repsim_jax.theory.kernel_pca import KernelPca, kernel_pca, nystrom_features, random_features
from repsim_jax.theory.kernel_twins import KernelTwins, kernel_twins
from repsim_jax.theory.learners import Recipe
from repsim_jax.theory.networks import Network
from repsim_jax.theory.objectives import Objective
from repsim_jax.theory.pca import contrastive_pca
from repsim_jax.theory.phase import PhaseDiagram, phase_diagram
from repsim_jax.theory.triplets import Triplets, triplets
from repsim_jax.theory.verification import drift, verify

__all__ = [
    "Advice",
    "Claim",
    "Course",
    "KernelFlow",
    "KernelPca",
    "KernelTwins",
    "Learner",
    "Network",
    "Objective",
    "PairObjective",
    "PhaseDiagram",
    "Recipe",
    "Series",
    "Setup",
    "Triplets",
    "advise",
    "beyond_pca",
    "beyond_the_theory",
    "contrastive_pca",
    "drift",
    "kernel_flow",
    "kernel_pca",
    "kernel_twins",
    "nystrom_features",
    "pair_contrast",
    "phase_diagram",
    "random_features",
    "triplets",
    "verify",
]
