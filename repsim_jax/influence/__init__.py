"""Which training examples made this representation? Label-free influence for self-supervised models.

Harilal et al. 2024, "Where Did Your Model Learn That? Label-free Influence for Self-supervised Learning"
(arXiv 2412.17170), of which no code was published.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.influence.augmentations import DigitViews, ImageViews
    from repsim_jax.influence.checkpoints import OverCheckpoints, over_checkpoints
    from repsim_jax.influence.counterfactual import (
        DatamodelingScore,
        datamodeling_score,
        leave_one_out,
        noise_ceiling,
        outcomes,
        random_subsets,
    )
    from repsim_jax.influence.curvature import Curvature, Eigen, Identity, Rows, dense, woodbury
    from repsim_jax.influence.damping import Damping
    from repsim_jax.influence.examples import Examples, augmented, with_views
    from repsim_jax.influence.kronecker import EKFAC, ekfac
    from repsim_jax.influence.measurements import (
        Distance,
        FeatureDirection,
        Measurement,
        ProbeLogit,
        Stability,
        TrainingLoss,
        Uniformity,
    )
    from repsim_jax.influence.metagradients import metagradient
    from repsim_jax.influence.networks import Network
    from repsim_jax.influence.objectives import (
        BYOL,
        BarlowTwins,
        Custom,
        Objective,
        SimCLR,
        SimSiam,
        SpectralContrastive,
        VICReg,
    )
    from repsim_jax.influence.pretraining import Checkpoint, Pretrained, objective_of, pretrain, problem_of
    from repsim_jax.influence.problems import Problem, problem
    from repsim_jax.influence.projections import LoGra, RandomProjection, logra, random_projection
    from repsim_jax.influence.recipes import Recipe
    from repsim_jax.influence.retraining import retrained
    from repsim_jax.influence.scores import Influence, SelfInfluence, influence, self_influence
    from repsim_jax.influence.stored import Shards, fingerprint, load_curvature, save_curvature
    from repsim_jax.influence.sweeps import DampingSweep, damping_sweep
    from repsim_jax.influence.truncated import low_rank

_HOME = {
    "BYOL": "objectives",
    "BarlowTwins": "objectives",
    "Checkpoint": "pretraining",
    "Curvature": "curvature",
    "Custom": "objectives",
    "Damping": "damping",
    "DampingSweep": "sweeps",
    "DatamodelingScore": "counterfactual",
    "DigitViews": "augmentations",
    "Distance": "measurements",
    "EKFAC": "kronecker",
    "Eigen": "curvature",
    "Examples": "examples",
    "FeatureDirection": "measurements",
    "Identity": "curvature",
    "ImageViews": "augmentations",
    "Influence": "scores",
    "LoGra": "projections",
    "Measurement": "measurements",
    "Network": "networks",
    "Objective": "objectives",
    "OverCheckpoints": "checkpoints",
    "Pretrained": "pretraining",
    "ProbeLogit": "measurements",
    "Problem": "problems",
    "RandomProjection": "projections",
    "Recipe": "recipes",
    "Rows": "curvature",
    "SelfInfluence": "scores",
    "Shards": "stored",
    "SimCLR": "objectives",
    "SimSiam": "objectives",
    "SpectralContrastive": "objectives",
    "Stability": "measurements",
    "TrainingLoss": "measurements",
    "Uniformity": "measurements",
    "VICReg": "objectives",
    "augmented": "examples",
    "damping_sweep": "sweeps",
    "datamodeling_score": "counterfactual",
    "dense": "curvature",
    "ekfac": "kronecker",
    "fingerprint": "stored",
    "influence": "scores",
    "leave_one_out": "counterfactual",
    "load_curvature": "stored",
    "logra": "projections",
    "low_rank": "truncated",
    "metagradient": "metagradients",
    "noise_ceiling": "counterfactual",
    "objective_of": "pretraining",
    "outcomes": "counterfactual",
    "over_checkpoints": "checkpoints",
    "pretrain": "pretraining",
    "problem": "problems",
    "problem_of": "pretraining",
    "random_projection": "projections",
    "random_subsets": "counterfactual",
    "retrained": "retraining",
    "save_curvature": "stored",
    "self_influence": "scores",
    "with_views": "examples",
    "woodbury": "curvature",
}
__all__ = [
    "BYOL",
    "EKFAC",
    "BarlowTwins",
    "Checkpoint",
    "Curvature",
    "Custom",
    "Damping",
    "DampingSweep",
    "DatamodelingScore",
    "DigitViews",
    "Distance",
    "Eigen",
    "Examples",
    "FeatureDirection",
    "Identity",
    "ImageViews",
    "Influence",
    "LoGra",
    "Measurement",
    "Network",
    "Objective",
    "OverCheckpoints",
    "Pretrained",
    "ProbeLogit",
    "Problem",
    "RandomProjection",
    "Recipe",
    "Rows",
    "SelfInfluence",
    "Shards",
    "SimCLR",
    "SimSiam",
    "SpectralContrastive",
    "Stability",
    "TrainingLoss",
    "Uniformity",
    "VICReg",
    "augmented",
    "damping_sweep",
    "datamodeling_score",
    "dense",
    "ekfac",
    "fingerprint",
    "influence",
    "leave_one_out",
    "load_curvature",
    "logra",
    "low_rank",
    "metagradient",
    "noise_ceiling",
    "objective_of",
    "outcomes",
    "over_checkpoints",
    "pretrain",
    "problem",
    "problem_of",
    "random_projection",
    "random_subsets",
    "retrained",
    "save_curvature",
    "self_influence",
    "with_views",
    "woodbury",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
