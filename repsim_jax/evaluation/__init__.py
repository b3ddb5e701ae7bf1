"""Protocols on top of a comparison: which layers correspond, do the measures agree, does an update pass its gate?"""

from repsim_jax.evaluation.agreement import (
    Disagreement,
    disagreements,
    mean_agreement,
    normalized_ranks,
    rank_correlations,
)
from repsim_jax.evaluation.gate import Check, GateResult, Policy, Rule, check, load_policy
from repsim_jax.evaluation.matching import BestLayers, Path, best_layers, best_path

__all__ = [
    "BestLayers",
    "Check",
    "Disagreement",
    "GateResult",
    "Path",
    "Policy",
    "Rule",
    "best_layers",
    "best_path",
    "check",
    "disagreements",
    "load_policy",
    "mean_agreement",
    "normalized_ranks",
    "rank_correlations",
]
