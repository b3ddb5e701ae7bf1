"""What should a user be warned of? Thresholds with their reasons, and what to do, in words."""

from typing import NamedTuple

from repsim_jax.canonicalization.diversity import Diversity
from repsim_jax.canonicalization.equivariance import Equivariance
from repsim_jax.canonicalization.latency import Latency

# Trained on digits that were all upright, 0.96 of others were left as they are; with half of them in other poses 0.73.
LEAST_IDENTITY = 0.8
# Cosines. Digits: 0.70 where all were upright, 0.08 where half were, 0.02 where poses were even. Networks that were
# never trained had 0.13 to 0.17, so that a margin above this is no sign of training.
LEAST_MARGIN = 0.1
# What twice the data would add, of 1. Digits gained 0.03 with each doubling from 300 to 1,300.
MOST_GAIN = 0.02
# Bits: one input in ten has left the one pose that all had.
MOST_SHIFT = 0.05
# Of such inputs no choice is right: of one in twenty the pose is chance. Of digits, 8 in 1,000 are at most.
MOST_SYMMETRIC = 0.05
# One example in ten that teaches nothing new.
MOST_COPIES = 0.1
# Accuracy that upright inputs lose: what users of augmentation pay, and are promised not to.
MOST_DROP = 0.01
# Share of inputs whose pose follows: an untrained network with masked views reaches it for turns by 45 degrees.
LEAST_FOLLOWED = 0.9
# Time of the canonicalizer over that of the model; above it a mean over a few poses costs no more.
MOST_TIME = 1.0


class Caution(NamedTuple):
    """A warning.

    Attributes:
        name: In a word or two, for tables and documents.
        told: What was found, and what to do.
    """

    name: str
    told: str


def cautions(
    diversity: Diversity | None = None,
    equivariance: Equivariance | None = None,
    latency: Latency | None = None,
    *,
    is_upright: bool = True,
) -> tuple[Caution, ...]:
    """Warns of what was found.

    Args:
        diversity: Of the data.
        equivariance: Of the wrapped model.
        latency: Of both.
        is_upright: Whether the training inputs were said to be upright, as the default objective says.

    Returns:
        Warnings, none where all is well.
    """
    found: list[Caution] = []
    found += [] if diversity is None else _of_data(diversity, is_upright)
    found += [] if equivariance is None else _of_answers(equivariance)
    found += [] if latency is None else _of_time(latency)
    return tuple(found)


def _of_data(found: Diversity, is_upright: bool) -> list[Caution]:
    told, train, curve = [], found.train, found.curve
    if is_upright and train.identity_rate < LEAST_IDENTITY:
        text = (
            f"only {train.identity_rate:.0%} of the training images are left as they are; of upright ones it would be "
        )
        text += f"{LEAST_IDENTITY:.0%} or more. Train for longer, or, if they come in any pose, with the objective "
        told.append(Caution("not upright", text + "'unaligned'."))
    if train.median_margin < LEAST_MARGIN:
        text = (
            f"half of the training images are decided by {train.median_margin:.3f} or less (below {LEAST_MARGIN}), so "
        )
        text += "that noise may turn them. More alone would not show that training worked: untrained networks have it."
        told.append(Caution("small margins", text))
    if found.shift is not None and found.shift > MOST_SHIFT:
        text = f"test images are in other poses than training images (shift {found.shift:.2f} bits). If they were "
        told.append(
            Caution("other poses", text + "turned, that is what this is for; if not, they are of another kind.")
        )
    if train.symmetric > MOST_SYMMETRIC:
        text = (
            f"{train.symmetric:.0%} of the training images look the same in another pose, so that no choice is right. "
        )
        told.append(Caution("self-symmetric", text + "Average over ties: Selection(ties='average')."))
    if found.copies > MOST_COPIES:
        text = f"{found.copies:.0%} of the training images have a near copy: there are fewer examples than there seem."
        told.append(Caution("near copies", text))
    if curve is not None and curve.per_doubling > MOST_GAIN:
        text = (
            f"with {curve.sizes[-1]:,} images the score is {curve.scores[-1]:.3f}, and twice as many would add about "
        )
        told.append(Caution("more data would help", f"{text}{100 * curve.per_doubling:.1f} points."))
    return told


def _of_answers(found: Equivariance) -> list[Caution]:
    told, drop, followed = [], found.upright_drop, float(found.followed.mean())
    if drop is not None and drop > MOST_DROP:
        text = (
            f"inputs as they came lose {100 * drop:.1f} points of accuracy: some upright ones are turned by mistake. "
        )
        told.append(
            Caution("upright accuracy lost", text + "Train on more, or leave the unsure alone: Selection(gate=).")
        )
    if followed < LEAST_FOLLOWED:
        text = (
            f"the chosen pose follows the input in {followed:.0%} of the cases ({found.interpolation} interpolation): "
        )
        told.append(
            Caution("poses do not follow", text + "mask the views, take a smaller group, or the artifact loss.")
        )
    if found.num_tied:
        text = (
            f"{found.num_tied:,} of {len(found.num_ties):,} inputs have more than one pose of least energy; the first "
        )
        told.append(Caution("ties", text + "is taken, unless Selection(ties=) says otherwise."))
    return told


def _of_time(found: Latency) -> list[Caution]:
    slow = [(batch, found.ratio(batch)) for batch in found.batches if found.ratio(batch) > MOST_TIME]
    if not slow:
        return []
    parts = ", ".join(f"{ratio:.1f} times as long at batch {batch}" for batch, ratio in slow)
    text = (
        f"the canonicalizer takes longer than the model ({parts}): use smaller views, a narrower network or a smaller "
    )
    return [Caution("slow", f"{text}group.")]
