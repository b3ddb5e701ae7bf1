"""How alike are two representations, by a measure that was learned for the purpose?  ContraSim, arXiv 2303.16992.

A closed-form measure ignores what its formula ignores. This one is taught what to ignore: it is fitted on positives,
which should be alike (the same layer of networks that differ in their seed, a sentence and its translation, an image
and its caption, the old and the new model on the same input), against negatives, which should not.
"""

from repsim_jax.similarity.contrasim.collection import collect
from repsim_jax.similarity.contrasim.diagnosis import Accuracy, Diagnosis, wilson
from repsim_jax.similarity.contrasim.files import load, save
from repsim_jax.similarity.contrasim.fitting import Fit, fit
from repsim_jax.similarity.contrasim.learned import Learned
from repsim_jax.similarity.contrasim.measure import ContraSim
from repsim_jax.similarity.contrasim.options import (
    FAITHFUL,
    FAITHFUL_EXAMPLES,
    FAITHFUL_LAYERS,
    Options,
    Training,
)
from repsim_jax.similarity.contrasim.scoring import encode_layers, example_scores, score, score_pairs

__all__ = [
    "FAITHFUL",
    "FAITHFUL_EXAMPLES",
    "FAITHFUL_LAYERS",
    "Accuracy",
    "ContraSim",
    "Diagnosis",
    "Fit",
    "Learned",
    "Options",
    "Training",
    "collect",
    "encode_layers",
    "example_scores",
    "fit",
    "load",
    "save",
    "score",
    "score_pairs",
    "wilson",
]
