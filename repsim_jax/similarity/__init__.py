"""How alike are two representations? Closed-form measures of two arrays, and of all layer pairs of two models."""

from repsim_jax.similarity.cca import cca, pwcca, svcca
from repsim_jax.similarity.cka import linear_cka, minibatch_cka, rbf_cka
from repsim_jax.similarity.neighbors import mutual_knn
from repsim_jax.similarity.prediction import linear_predictivity
from repsim_jax.similarity.procrustes import procrustes
from repsim_jax.similarity.rsa import rsa

__all__ = [
    "cca",
    "linear_cka",
    "linear_predictivity",
    "minibatch_cka",
    "mutual_knn",
    "procrustes",
    "pwcca",
    "rbf_cka",
    "rsa",
    "svcca",
]
