"""Kernels of networks, finite or infinitely wide: neural tangent kernels (NTK) and Gaussian-process kernels (NNGP)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.kernels.analytic import (
        Kernels,
        convnet_kernels,
        mlp_kernels,
    )
    from repsim_jax.kernels.change import (
        EffectiveRank,
        effective_rank,
        kernel_alignment,
        kernel_distance,
        kernel_velocity,
        relative_change,
        spectrum,
    )
    from repsim_jax.kernels.costs import (
        Cost,
        ntk_cost,
    )
    from repsim_jax.kernels.empirical import (
        ntk,
        ntk_by_layer,
        ntk_diagonal,
    )
    from repsim_jax.kernels.motion import (
        KernelChange,
        ParameterDistance,
        linearization_error,
        linearize,
        ntk_change,
        parameter_distance,
        scaled_output,
    )
    from repsim_jax.kernels.operators import (
        EigenPairs,
        Sketch,
        ntk_eigenpairs,
        ntk_sketch,
        ntk_vector_product,
    )
    from repsim_jax.kernels.stored import (
        ntk_to_file,
    )
    from repsim_jax.kernels.summary import (
        Definiteness,
        KernelSummary,
        Repeats,
        near_duplicates,
        psd_report,
        summarize_kernel,
    )

_HOME = {
    "Cost": "costs",
    "Definiteness": "summary",
    "EffectiveRank": "change",
    "EigenPairs": "operators",
    "KernelChange": "motion",
    "KernelSummary": "summary",
    "Kernels": "analytic",
    "ParameterDistance": "motion",
    "Repeats": "summary",
    "Sketch": "operators",
    "convnet_kernels": "analytic",
    "effective_rank": "change",
    "kernel_alignment": "change",
    "kernel_distance": "change",
    "kernel_velocity": "change",
    "linearization_error": "motion",
    "linearize": "motion",
    "mlp_kernels": "analytic",
    "near_duplicates": "summary",
    "ntk": "empirical",
    "ntk_by_layer": "empirical",
    "ntk_change": "motion",
    "ntk_cost": "costs",
    "ntk_diagonal": "empirical",
    "ntk_eigenpairs": "operators",
    "ntk_sketch": "operators",
    "ntk_to_file": "stored",
    "ntk_vector_product": "operators",
    "parameter_distance": "motion",
    "psd_report": "summary",
    "relative_change": "change",
    "scaled_output": "motion",
    "spectrum": "change",
    "summarize_kernel": "summary",
}
__all__ = [
    "Cost",
    "Definiteness",
    "EffectiveRank",
    "EigenPairs",
    "KernelChange",
    "KernelSummary",
    "Kernels",
    "ParameterDistance",
    "Repeats",
    "Sketch",
    "convnet_kernels",
    "effective_rank",
    "kernel_alignment",
    "kernel_distance",
    "kernel_velocity",
    "linearization_error",
    "linearize",
    "mlp_kernels",
    "near_duplicates",
    "ntk",
    "ntk_by_layer",
    "ntk_change",
    "ntk_cost",
    "ntk_diagonal",
    "ntk_eigenpairs",
    "ntk_sketch",
    "ntk_to_file",
    "ntk_vector_product",
    "parameter_distance",
    "psd_report",
    "relative_change",
    "scaled_output",
    "spectrum",
    "summarize_kernel",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
