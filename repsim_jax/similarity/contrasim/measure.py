"""A fitted measure: learned weights, and what one must know before believing it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repsim_jax.similarity.contrasim.encoder import Params
from repsim_jax.similarity.contrasim.options import Options

if TYPE_CHECKING:
    from repsim_jax.similarity.contrasim.diagnosis import Diagnosis


class FittedSource(NamedTuple):
    """A source that took part in the fit.

    Attributes:
        layers: Names of its layers.
        widths: Their features.
        weights_sha256: Of the model, where its store tells; None elsewhere.
        held_out: Whether the fit only tested on it.
    """

    layers: tuple[str, ...]
    widths: tuple[int, ...]
    weights_sha256: str | None = None
    held_out: bool = False


@dataclass(frozen=True, eq=False)
class ContraSim:
    """A learned similarity, as ``fit`` makes and ``save`` stores it.

    Attributes:
        params: ``trunk``, and for projected input ``projections`` and ``standards`` by source.
        options: What was fitted.
        sources: What it was fitted on, by name.
        anchor_ids: The anchor examples, in the order of the relative input; empty for other input.
        training_examples: Sorted 64-bit hashes of the ids of all training examples, anchors included.
        diagnosis: How far it can be trusted; None where the fit was told not to look.
        settings: Numbers of the fit (steps, learning rate, ...), for the record.
    """

    params: Params
    options: Options
    sources: dict[str, FittedSource]
    anchor_ids: tuple[str, ...] = ()
    training_examples: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    diagnosis: "Diagnosis | None" = None
    settings: dict[str, Any] = field(default_factory=dict)

    def trained_on(self, ids: Iterable[str]) -> np.ndarray:
        """Which of these examples the fit has seen.

        Args:
            ids: Example ids.

        Returns:
            (n,) booleans; anchors count as seen.
        """
        return np.isin(example_hashes(ids), self.training_examples)


def example_hashes(ids: Iterable[str]) -> np.ndarray:
    """64-bit hashes of example ids: enough to tell a million of them apart with odds of 1 : 10^7 against one accident.

    Args:
        ids: Example ids.

    Returns:
        (n,) uint64, in the order of the ids.
    """
    digests = [hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest() for one in ids]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
