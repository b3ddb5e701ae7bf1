"""What does a verdict on PCA, kernel or network say to a person? A reason in words, with the numbers behind it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from repsim_jax.theory.learners import Motion
from repsim_jax.theory.probes import METRICS
from repsim_jax.theory.verdicts import CHANCE, Gain, Judged, Kind

# A reason that lists more open comparisons than this is read by nobody.
_MOST_OPEN = 3


class Scored(Protocol):
    """What is asked of a learner here: ``advice.Learner``."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def kind(self) -> Kind:
        """What it is."""
        ...

    @property
    def scores(self) -> Mapping[str, np.ndarray]:
        """Of each seed, by metric."""
        ...

    @property
    def seconds(self) -> np.ndarray:
        """Of each seed."""
        ...

    @property
    def motion(self) -> tuple[Motion, ...]:
        """Of a network and each seed."""
        ...


def reason_told(judged: Judged, learners: Sequence[Scored], metric: str, margin: float, cka: np.ndarray) -> str:
    """The verdict in words.

    Args:
        judged: The verdict.
        learners: All of them; PCA among them.
        metric: That it is about.
        margin: Gain that matters.
        cka: (L, L) between the learners' held-out embeddings.

    Returns:
        A few sentences.
    """
    named = {one.name: one for one in learners}
    pca = next(one for one in learners if one.kind == "pca")
    told = _Told(METRICS[metric].title, metric, margin)
    if judged.reference == CHANCE:
        return told.nothing(judged)
    if judged.verdict == "pca":
        best = max(judged.gains, key=lambda one: one.mean)
        names = [one.name for one in learners]
        return told.pca(pca, named[best.learner], best, cka[names.index(pca.name), names.index(best.learner)])
    if judged.verdict == "kernel":
        best = max(_over(judged, judged.reference), key=lambda one: one.mean)
        return told.kernel(named[judged.reference], pca, judged, named[best.learner], best)
    if judged.verdict == "network":
        best = next(one for one in reversed(judged.gains) if one.learner == judged.reference)
        return told.network(named[judged.reference], named[best.reference], best)
    return told.undecided(judged, pca)


class _Told(NamedTuple):
    """The sentences, of one metric and margin."""

    title: str
    metric: str
    margin: float

    def reached(self, one: Scored) -> str:
        return f"{one.name} reaches {one.scores[self.metric].mean():.3f}"

    def pca(self, pca: Scored, other: Scored, best: Gain, cka: float) -> str:
        return (
            f"Start from PCA: no kernel and no network here is better by as much as {self.margin:g} in {self.title}. "
            f"{self.reached(pca)}; the best of the others, {other.name}, gains {best.told}, takes {_cost(other, pca)}, "
            f"and sees unseen examples with CKA {cka:.2f} to PCA."
        )

    def kernel(self, kernel: Scored, pca: Scored, judged: Judged, network: Scored, best: Gain) -> str:
        return (
            f"A kernel does it: {self.reached(kernel)} in {self.title} where {self.reached(pca)}, a gain of "
            f"{_gain(judged, kernel.name, pca.name).told}. No network here is better than it by as much as "
            f"{self.margin:g}: the best of them, {network.name}, gains {best.told}, and takes {_cost(network, kernel)}."
        )

    def network(self, network: Scored, rival: Scored, gain: Gain) -> str:
        moved = np.mean([one.change[-1] for one in network.motion])
        return (
            f"The network pays: {self.reached(network)} in {self.title} where {self.reached(rival)}, a gain of "
            f"{gain.told}. It takes {_cost(network, rival)}, and training changes its tangent kernel by {moved:.0%}."
        )

    def undecided(self, judged: Judged, pca: Scored) -> str:
        over = [one for one in _over(judged, judged.reference) if not one.cannot_pay(self.margin)]
        listed = "; ".join(f"{one.learner} {one.told}" for one in sorted(over, key=lambda one: -one.mean)[:_MOST_OPEN])
        rest = f"; and {len(over) - _MOST_OPEN} more" if len(over) > _MOST_OPEN else ""
        first = f"Undecided: whether anything gains {self.margin:g} over PCA in {self.title} is open"
        if judged.reference != pca.name:
            first = (
                f"Undecided between a kernel and a network: {judged.reference} pays over PCA, with a gain of "
                f"{_gain(judged, judged.reference, pca.name).told} in {self.title}, but whether a network gains "
                f"{self.margin:g} over it is open"
            )
        return (
            f"{first}: {listed}{rest}. More seeds or more examples bring these bounds together. Until then start from "
            f"{judged.reference}."
        )

    def nothing(self, judged: Judged) -> str:
        best = max(judged.gains, key=lambda one: one.mean)
        return (
            f"Undecided: no learner is better than chance by {self.margin:g} in {self.title} (the best, "
            f"{best.learner}, by {best.told}), so that it tells nothing about them. Pass labels, or views that share "
            "more with their examples."
        )


def _cost(one: Scored, other: Scored) -> str:
    return f"{np.median(one.seconds):.2g} s where {other.name} takes {np.median(other.seconds):.2g} s"


def _over(judged: Judged, reference: str) -> list[Gain]:
    return [one for one in judged.gains if one.reference == reference]


def _gain(judged: Judged, learner: str, reference: str) -> Gain:
    return next(one for one in judged.gains if (one.learner, one.reference) == (learner, reference))
