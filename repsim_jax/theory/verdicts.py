"""Does a kernel pay over PCA, and a network over that? A rule on paired scores, that may say that it cannot tell."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from repsim_jax.errors import BadArrayError

Kind = Literal["pca", "kernel", "network"]
Verdict = Literal["pca", "kernel", "network", "undecided"]
# What a learner that guesses is called, where it is the reference.
CHANCE = "chance"
# How often a verdict may be wrong.
_LEVEL = 0.05


class Gain(NamedTuple):
    """By how much a learner is better than another, on the same splits.

    Attributes:
        learner: Its name.
        reference: The other's name.
        mean: Over splits.
        low: Lower bound, simultaneous for all learners (Bonferroni): one of them that seems to pay must not do so by
            chance.
        high: Upper bound of this learner alone: a verdict that dismisses learners needs all of them to be below the
            margin (an intersection-union test, which needs no correction).
    """

    learner: str
    reference: str
    mean: float
    low: float
    high: float

    @property
    def told(self) -> str:
        """In numbers: "+0.021 (+0.010 to +0.032)"."""
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"

    def pays(self, margin: float) -> bool:
        """Whether it is better, by as much as matters.

        Args:
            margin: Gain that matters.

        Returns:
            True if the mean reaches the margin and the lower bound is positive.
        """
        return self.low > 0 and self.mean >= margin

    def cannot_pay(self, margin: float) -> bool:
        """Whether a gain that matters is ruled out.

        Args:
            margin: Gain that matters.

        Returns:
            True if the upper bound is below the margin.
        """
        return self.high < margin


class Judged(NamedTuple):
    """The verdict and what it rests on.

    Attributes:
        verdict: Where to start, or that these data do not tell.
        reference: The learner to start from; of an undecided verdict the one that nothing has beaten yet, or chance.
        gains: Of each learner over PCA, and of each network over the best kernel where a kernel pays; over chance where
            none is better than that.
    """

    verdict: Verdict
    reference: str
    gains: tuple[Gain, ...]


def interval(values: np.ndarray, *, ratio: float) -> tuple[float, float]:
    r"""The 95 % t interval of a mean over random splits of the same examples.

    Splits share examples, so that the variance of the mean is :math:`(1/J + n_2/n_1) s^2` rather than
    :math:`s^2 / J`, for J splits with n_1 training and n_2 test examples.

    Args:
        values: (J,) of each split, J >= 2.
        ratio: Test examples over training examples.

    Returns:
        Its ends.

    Raises:
        BadArrayError: If there are fewer than two splits.

    Source:
        Nadeau and Bengio 2003, doi 10.1023/A:1024068626366.
    """
    half = _half(values, ratio, _LEVEL / 2.0)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def _half(values: np.ndarray, ratio: float, level: float) -> float:
    """From the mean to a one-sided bound that may miss at this level."""
    from scipy.stats import t

    number = len(values)
    if number < 2:
        raise BadArrayError(f"an interval over seeds needs two of them or more, got {number}.")
    return float(t.ppf(1.0 - level, number - 1) * np.std(values, ddof=1) * np.sqrt(1.0 / number + ratio))


def judge(
    scores: Mapping[str, np.ndarray],
    kinds: Mapping[str, Kind],
    *,
    ratio: float,
    margin: float = 0.02,
    chance: float = 0.0,
) -> Judged:
    r"""The cheapest kind of learner that no dearer one beats by as much as matters.

    A gain *pays* if its mean reaches the margin and its lower bound is positive; it *cannot pay* if its upper bound is
    below the margin. Bounds are one-sided at 95 %, the lower ones for all learners together: see ``Gain``.

    0. If no learner is better than chance by the margin, in the same sense, the scores tell nothing: "undecided".
    1. If kernels pay over PCA, the reference is the one with the largest mean gain; otherwise it is PCA.
    2. If a network pays over the reference, the verdict is "network".
    3. If no network can pay over the reference, and it is a kernel, the verdict is "kernel".
    4. If neither a network nor a kernel can pay over PCA, the verdict is "pca".
    5. Otherwise the verdict is "undecided".

    Args:
        scores: (J,) of each learner on the same J splits, larger is better; one of them is PCA.
        kinds: Of each learner.
        ratio: Test examples over training examples, see ``interval``.
        margin: Gain that matters, > 0.
        chance: Score of a guess.

    Returns:
        The verdict.

    Raises:
        BadArrayError: If the margin is not positive, or not just one learner is PCA.
    """
    pca = [name for name, kind in kinds.items() if kind == "pca"]
    if len(pca) != 1:
        raise BadArrayError(f"judge needs one learner of kind 'pca' to compare with, got {len(pca)}.")
    if not 0 < margin < float("inf"):
        raise BadArrayError(f"judge needs a margin > 0 (a gain that matters), got {margin!r}.")
    level = _LEVEL / max(len(scores) - 1, 1)

    def gain(name: str, reference: str) -> Gain:
        other = scores[reference] if reference in scores else np.full_like(scores[name], chance)
        difference = np.asarray(scores[name]) - other
        mean = float(difference.mean())
        return Gain(
            name, reference, mean, mean - _half(difference, ratio, level), mean + _half(difference, ratio, _LEVEL)
        )

    gains = [gain(name, pca[0]) for name in scores if name != pca[0]]
    over_chance = tuple(gain(name, CHANCE) for name in scores)
    if not any(one.pays(margin) for one in over_chance):
        return Judged("undecided", CHANCE, over_chance)
    return _judged(gains, gain, kinds, pca[0], margin)


def _judged(
    gains: list[Gain], gain: Callable[[str, str], Gain], kinds: Mapping[str, Kind], pca: str, margin: float
) -> Judged:
    of_kernels = [one for one in gains if kinds[one.learner] == "kernel"]
    of_networks = [one for one in gains if kinds[one.learner] == "network"]
    paying = [one for one in of_kernels if one.pays(margin)]
    reference = max(paying, key=lambda one: one.mean).learner if paying else pca
    if paying:
        of_networks = [gain(one.learner, reference) for one in of_networks]
        gains = gains + of_networks
    won = [one for one in of_networks if one.pays(margin)]
    if won:
        return Judged("network", max(won, key=lambda one: one.mean).learner, tuple(gains))
    ruled_out = of_networks if paying else of_networks + of_kernels
    if all(one.cannot_pay(margin) for one in ruled_out):
        return Judged("kernel" if paying else "pca", reference, tuple(gains))
    return Judged("undecided", reference, tuple(gains))
