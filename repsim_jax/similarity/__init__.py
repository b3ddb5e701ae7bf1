"""How alike are two representations? Closed-form measures of two arrays, and of all layer pairs of two models."""

from repsim_jax.similarity.canonical import cca, pwcca, svcca
from repsim_jax.similarity.cka import linear_cka, minibatch_cka, rbf_cka
from repsim_jax.similarity.comparison import Comparison, Row
from repsim_jax.similarity.dissimilarity import rsa
from repsim_jax.similarity.layer_pairs import compare
from repsim_jax.similarity.neighbors import mutual_knn
from repsim_jax.similarity.prediction import linear_predictivity
from repsim_jax.similarity.registry import DEFAULT_MEASURES, LearnedMeasure, Measure, measure, measures
from repsim_jax.similarity.shape import procrustes

__all__ = [
    "DEFAULT_MEASURES",
    "Comparison",
    "LearnedMeasure",
    "Measure",
    "Row",
    "cca",
    "compare",
    "linear_cka",
    "linear_predictivity",
    "measure",
    "measures",
    "minibatch_cka",
    "mutual_knn",
    "procrustes",
    "pwcca",
    "rbf_cka",
    "rsa",
    "svcca",
]
