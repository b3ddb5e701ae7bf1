"""Who takes part in a contest, and how did they do?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax import similarity
from repsim_jax.evaluation.protocols import Interval, Pairs, mean_cosine_pairs
from repsim_jax.linalg import unit_rows
from repsim_jax.similarity import contrasim
from repsim_jax.similarity.contrasim import FAITHFUL, FAITHFUL_EXAMPLES, FAITHFUL_LAYERS, Options, Training
from repsim_jax.similarity.contrasim.inputs import relative

Family = Literal["closed form", "anchors only", "learned"]
Told = Callable[[str], None]
# Every family of closed-form measures; biased CKA is what the paper compares with.
CLOSED = ("linear_cka_unbiased", "linear_cka", "procrustes", "cca", "svcca", "pwcca", "rsa", "mutual_knn")
# Where n is below the width, CCA and its kin call every candidate alike; mean CCA stands for all of them.
CLOSED_PAIRED = ("linear_cka_unbiased", "linear_cka", "procrustes", "cca", "rsa", "mutual_knn")
_STEPS = 200


class Line(NamedTuple):
    """What tells one line of a contest's table from the others.

    Attributes:
        contest: What was asked, such as "layers of CIFAR-10 networks".
        contestant: Who answered.
        family: ``closed form``; ``anchors only``: untrained cosines of relative representations; or ``learned``.
        trained_on: What a learned one was trained on: "the tested models", "other models", ...; empty for the others.
        negatives: How wrong candidates were drawn; empty for layer prediction.
        size: Examples n in each decision.
    """

    contest: str
    contestant: str
    family: Family
    trained_on: str
    negatives: str
    size: int


# Of each line the answers, one array for each independent part: models x models shares, or one number a decision.
Decisions = dict[Line, list[np.ndarray]]


class Standing(NamedTuple):
    """One line of a contest's table.

    Attributes:
        contest: As in ``Line``, as the next five.
        contestant: Who answered.
        family: What kind of measure.
        trained_on: What a learned one was trained on.
        negatives: How wrong candidates were drawn.
        size: Examples n in each decision.
        interval: Share of right decisions.
        chance: Share that guessing gets right.
        lead: By how much that is above the best closed-form measure's share at the same question, with an interval of
            the difference (both answered the same decisions, so it is narrower than the two by themselves). None for
            closed-form measures, and where the two were not asked about the same models.
    """

    contest: str
    contestant: str
    family: Family
    trained_on: str
    negatives: str
    size: int
    interval: Interval
    chance: float
    lead: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """This line as plain values.

        Returns:
            Name to value; the interval's fields beside the others, shares rounded to four digits.
        """
        values = self._asdict()
        interval, lead = values.pop("interval")._asdict(), values.pop("lead")
        if lead is not None:
            interval |= {"lead": lead.mean, "lead_low": lead.low, "lead_high": lead.high}
        return {**values, **{k: round(v, 4) if isinstance(v, float) else v for k, v in interval.items()}}


def standings(decisions: Decisions, chance: float, interval: Callable[[list[np.ndarray]], Interval]) -> list[Standing]:
    """Turns answers into a table.

    Args:
        decisions: Of all contestants.
        chance: Share that guessing gets right.
        interval: Mean and interval of a line's answers, or of the differences of two lines'.

    Returns:
        A line for each key, in their order.
    """
    made = [Standing(*line, interval(answers), chance) for line, answers in decisions.items()]
    best: dict[tuple[str, str, int], Standing] = {}
    for one in made:
        question = one.contest, one.negatives, one.size
        if one.family == "closed form" and (question not in best or one.interval.mean > best[question].interval.mean):
            best[question] = one
    return [one._replace(lead=_lead(one, best, decisions, interval)) for one in made]


def _lead(
    one: Standing,
    best: Mapping[tuple[str, str, int], Standing],
    decisions: Decisions,
    interval: Callable[[list[np.ndarray]], Interval],
) -> Interval | None:
    rival = best.get((one.contest, one.negatives, one.size))
    if rival is None or one.family == "closed form":
        return None
    ours, theirs = decisions[Line(*one[:6])], decisions[Line(*rival[:6])]
    if [np.shape(a) for a in ours] != [np.shape(b) for b in theirs] or one.trained_on == "the tested models":
        return None
    return interval([np.asarray(a, float) - np.asarray(b, float) for a, b in zip(ours, theirs, strict=True)])


class Recipe(NamedTuple):
    """A learned contestant.

    Attributes:
        name: What it is called.
        options: What is fitted.
        training: How.
    """

    name: str
    options: Options
    training: Training


def layer_recipes(steps: int = _STEPS) -> tuple[Recipe, ...]:
    """The learned contestants of layer prediction: ours, the paper's, what lies between them, and the baselines.

    Args:
        steps: Updates of each.

    Returns:
        Ours first, then the paper's.
    """
    ours, paper = Training(num_steps=steps), replace(FAITHFUL_LAYERS, num_steps=steps)
    raw = FAITHFUL
    return (
        Recipe("ContraSim, ours", Options(), ours),
        Recipe("ContraSim, as in the paper", raw, paper),
        Recipe("ContraSim, paper's network and loss, our training", raw, replace(ours, temperature=0.07)),
        Recipe("ContraSim, relative, plain alone", Options(metric="plain"), ours),
        Recipe("ContraSim, relative, whitened alone", Options(metric="whitened"), ours),
        Recipe("DeepDot", replace(raw, objective="deep_dot"), ours),
        Recipe("DeepCKA", replace(raw, objective="deep_cka"), ours),
        Recipe("max-margin", replace(raw, objective="max_margin"), ours),
    )


def example_recipes(input: Literal["raw", "projected"], steps: int = _STEPS) -> tuple[Recipe, ...]:
    """The learned contestants of paired data.

    Args:
        input: What the paper's network gets: raw features where all widths agree, else a projection of each source.
        steps: Updates of each.

    Returns:
        Ours first, then the paper's.
    """
    ours, paper = Training(num_steps=steps), replace(FAITHFUL_EXAMPLES, num_steps=steps)
    raw = Options(positives="example", input=input)
    relative_input = Options(positives="example")
    return (
        Recipe("ContraSim, ours", relative_input, ours),
        Recipe("ContraSim, as in the paper", raw, paper),
        Recipe("ContraSim, paper's network and loss, our training", raw, replace(ours, temperature=0.07)),
        Recipe("ContraSim, relative, network of the paper", Options(positives="example", residual=False), ours),
        Recipe("max-margin", replace(raw, objective="max_margin"), ours),
        Recipe("DeepDot", replace(raw, objective="deep_dot"), ours),
        Recipe("DeepCKA", replace(raw, objective="deep_cka"), ours),
    )


def closed_pairs(name: str) -> Pairs:
    """The all-pairs function of a registered measure.

    Args:
        name: Its name.

    Returns:
        ``pairs(xs, ys)``.
    """
    return similarity.measure(name).pairs


def encoded_pairs(options: Options) -> Pairs:
    """How layers are compared once they are encoded.

    Args:
        options: Of the measure.

    Returns:
        ``pairs(xs, ys)`` of encoded layers.
    """
    return similarity.measure("linear_cka").pairs if options.objective == "deep_cka" else mean_cosine_pairs


def untrained(x: np.ndarray, anchors: np.ndarray, *, whiten: bool) -> np.ndarray:
    """Relative representations without any training, as unit rows.

    Args:
        x: (..., n, d).
        anchors: (..., k, d).
        whiten: As in ``Options``.

    Returns:
        (..., n, k).
    """
    made = relative(jnp.asarray(x, jnp.float32), jnp.asarray(anchors, jnp.float32), whiten=whiten)
    return np.asarray(unit_rows(made.reshape(-1, made.shape[-1])).reshape(made.shape))


def fitted(
    key: jax.Array, sources: Any, recipe: Recipe, *, anchors: Sequence[str], **options: Any
) -> contrasim.ContraSim:
    """Fits a contestant, without looking at any example that will be asked about.

    Args:
        key: Random key.
        sources: As ``contrasim.fit`` takes them, training examples only.
        recipe: Who.
        anchors: Ids of the anchor examples, for relative input.
        **options: Passed on to ``contrasim.fit``.

    Returns:
        The measure.
    """
    chosen = replace(recipe.options, num_anchors=len(anchors)) if recipe.options.input == "relative" else recipe.options
    given = {"anchors": tuple(anchors)} if recipe.options.input == "relative" else {}
    made = contrasim.fit(
        key, sources, options=chosen, training=recipe.training, test_share=0.0, held_out=(), sensitivity=False,
        **given, **options,
    )  # fmt: skip
    return made.measure
