"""How do I make this model equivariant without touching it? Canonicalization by least energy.

Panigrahi and Mondal 2024, "Improved Canonicalization for Model Agnostic Equivariance" (arXiv 2405.14089), after Kaba et
al. 2023 (arXiv 2211.06489) and Mondal et al. 2023 (arXiv 2310.01647).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repsim_jax.canonicalization.actions import Action, Images, Masks, Points, Tensors, Trivial, Vectors
    from repsim_jax.canonicalization.canonicalizers import Canonicalized, Canonicalizer, Frames, untrained
    from repsim_jax.canonicalization.energies import (
        Custom,
        Energy,
        FromLogits,
        Mahalanobis,
        Neighbors,
        Reference,
        from_logits,
        mahalanobis,
        neighbors,
        reference,
    )
    from repsim_jax.canonicalization.fields import Boxes, Keypoints, Regular, RegularMaps, VectorMaps
    from repsim_jax.canonicalization.fitting import Fitted, Recipe, fit, straight_through
    from repsim_jax.canonicalization.frames import PCAFrames, principal_axes
    from repsim_jax.canonicalization.groups import (
        Elements,
        Group,
        cyclic,
        dihedral,
        o2,
        o3,
        product,
        scalings,
        so2,
        so3,
    )
    from repsim_jax.canonicalization.lifting import Lifted, LiftingNetwork, lifted
    from repsim_jax.canonicalization.networks import ViewNetwork
    from repsim_jax.canonicalization.objectives import (
        OURS,
        PAPER,
        UNALIGNED,
        Objective,
        artifact_loss,
        cosine_contrast,
        dot_contrast,
        entropy_loss,
        prior_loss,
    )
    from repsim_jax.canonicalization.replication import equiadapt_canonical, equiadapt_orbit, equiadapt_views
    from repsim_jax.canonicalization.searching import Search
    from repsim_jax.canonicalization.selection import Selection
    from repsim_jax.canonicalization.views import Views
    from repsim_jax.canonicalization.wrapping import Answer, Equivariant, equivariant

_HOME = {
    "Action": "actions",
    "Answer": "wrapping",
    "Boxes": "fields",
    "Canonicalized": "canonicalizers",
    "Canonicalizer": "canonicalizers",
    "Custom": "energies",
    "Elements": "groups",
    "Energy": "energies",
    "Equivariant": "wrapping",
    "Fitted": "fitting",
    "Frames": "canonicalizers",
    "FromLogits": "energies",
    "Group": "groups",
    "Images": "actions",
    "Keypoints": "fields",
    "Lifted": "lifting",
    "LiftingNetwork": "lifting",
    "Mahalanobis": "energies",
    "Masks": "actions",
    "Neighbors": "energies",
    "OURS": "objectives",
    "Objective": "objectives",
    "PAPER": "objectives",
    "PCAFrames": "frames",
    "Points": "actions",
    "Recipe": "fitting",
    "Reference": "energies",
    "Regular": "fields",
    "RegularMaps": "fields",
    "Search": "searching",
    "Selection": "selection",
    "Tensors": "actions",
    "Trivial": "actions",
    "UNALIGNED": "objectives",
    "VectorMaps": "fields",
    "Vectors": "actions",
    "ViewNetwork": "networks",
    "Views": "views",
    "artifact_loss": "objectives",
    "cosine_contrast": "objectives",
    "cyclic": "groups",
    "dihedral": "groups",
    "dot_contrast": "objectives",
    "entropy_loss": "objectives",
    "equiadapt_canonical": "replication",
    "equiadapt_orbit": "replication",
    "equiadapt_views": "replication",
    "equivariant": "wrapping",
    "fit": "fitting",
    "from_logits": "energies",
    "lifted": "lifting",
    "mahalanobis": "energies",
    "neighbors": "energies",
    "o2": "groups",
    "o3": "groups",
    "principal_axes": "frames",
    "prior_loss": "objectives",
    "product": "groups",
    "reference": "energies",
    "scalings": "groups",
    "so2": "groups",
    "so3": "groups",
    "straight_through": "fitting",
    "untrained": "canonicalizers",
}
__all__ = [
    "OURS",
    "PAPER",
    "UNALIGNED",
    "Action",
    "Answer",
    "Boxes",
    "Canonicalized",
    "Canonicalizer",
    "Custom",
    "Elements",
    "Energy",
    "Equivariant",
    "Fitted",
    "Frames",
    "FromLogits",
    "Group",
    "Images",
    "Keypoints",
    "Lifted",
    "LiftingNetwork",
    "Mahalanobis",
    "Masks",
    "Neighbors",
    "Objective",
    "PCAFrames",
    "Points",
    "Recipe",
    "Reference",
    "Regular",
    "RegularMaps",
    "Search",
    "Selection",
    "Tensors",
    "Trivial",
    "VectorMaps",
    "Vectors",
    "ViewNetwork",
    "Views",
    "artifact_loss",
    "cosine_contrast",
    "cyclic",
    "dihedral",
    "dot_contrast",
    "entropy_loss",
    "equiadapt_canonical",
    "equiadapt_orbit",
    "equiadapt_views",
    "equivariant",
    "fit",
    "from_logits",
    "lifted",
    "mahalanobis",
    "neighbors",
    "o2",
    "o3",
    "principal_axes",
    "prior_loss",
    "product",
    "reference",
    "scalings",
    "so2",
    "so3",
    "straight_through",
    "untrained",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
