"""What may be concluded from a comparison, in plain words, and what may not at this number of examples."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten

if TYPE_CHECKING:
    from repsim_jax.report.findings import Digest, MeasureReading

# Aids to reading, not tests: there is no value of CKA at which two layers "are the same".
_DEGREES = (
    (0.95, "almost the same"),
    (0.8, "very much alike"),
    (0.6, "much alike"),
    (0.4, "partly alike"),
    (0.2, "weakly alike"),
)
_LEAST_DEGREE = "hardly alike"
# Measures whose expectation for unrelated data grows with width / n.
BIASED = frozenset({"linear_cka", "rbf_cka", "procrustes"})
# 0 for unrelated and 1 for identical representations, and not pressed towards either end by n or width alone.
_WORDED = frozenset({"linear_cka", "linear_cka_unbiased", "rbf_cka", "rbf_cka_unbiased", "minibatch_cka", "rsa"})
CANONICAL = frozenset({"cca", "svcca", "pwcca"})
# Below this lead over the second-best layer the choice of the best is left to chance in practice.
_THIN_MARGIN = 0.01
# Their bias is of the order of width / n: at ten examples a feature it no longer moves the first digit.
_ENOUGH_ROWS_PER_FEATURE = 10
# A map that people read as two layers' names must fit a line of prose.
_NAME_LENGTH = 48


_INVARIANCES = {
    "translation": "shifts",
    "isotropic scaling": "the overall scale",
    "orthogonal": "rotations",
    "permutation": "the order of features",
}


class Conclusions(NamedTuple):
    """What the numbers carry.

    Attributes:
        may: What may be concluded.
        may_not: What may not.
        cautions: What to mind about these very numbers (n, width, ties, notes of the comparison).
    """

    may: tuple[str, ...]
    may_not: tuple[str, ...]
    cautions: tuple[str, ...]


def names(found: "Digest") -> tuple[str, str]:
    """The two models' names, short enough for a sentence.

    Args:
        found: From ``digest``.

    Returns:
        Printable names of a and b.
    """
    return shorten(found.comparison.name_a, _NAME_LENGTH), shorten(found.comparison.name_b, _NAME_LENGTH)


def heading(found: "Digest") -> str:
    """The title where the user gave none.

    Args:
        found: From ``digest``.

    Returns:
        "How alike are A and B?".
    """
    return "How alike are {} and {}?".format(*names(found))


def verdict(found: "Digest") -> str:
    """How alike the models are, which layers correspond and how much the measures agree, in up to four sentences.

    Args:
        found: From ``digest``.

    Returns:
        Plain text.
    """
    sentences = [_degree_sentence(found), _order_sentence(found), _agreement_sentence(found)]
    return " ".join(sentence for sentence in sentences if sentence)


def degree(reading: "MeasureReading", value: float) -> str | None:
    """An everyday word for a value, for the measures on whose scale such words are in use.

    Args:
        reading: The measure.
        value: One of its values.

    Returns:
        For example "partly alike"; None where the scale has no such words.
    """
    if reading.name not in _WORDED:
        return None
    return next((word for floor, word in _DEGREES if value >= floor), _LEAST_DEGREE)


def _degree_sentence(found: "Digest") -> str:
    lead, comparison = found.lead, found.comparison
    a, b = names(found)
    word = None if _is_inflated(found, lead) else degree(lead, lead.path.mean)
    evidence = f"{lead.title} averages {number(lead.path.mean, 2)}"
    if lead.matrix.size == 1:
        evidence = f"{lead.title} is {number(lead.path.mean, 2)}"
    elif len(lead.path.values) > 1:
        evidence += f" along the best path through their layers ({_span(lead.path.values)})"
    opening = f"{a} and {b} are {word}" if word else f"{a} and {b} compared"
    return f"{opening}: {evidence}, over {comparison.num_examples:,} shared examples ({lead.direction})."


def _order_sentence(found: "Digest") -> str:
    best, num_b = found.lead.best.layers, len(found.comparison.layers_b)
    if len(best) < 3 or num_b < 3:
        return ""
    kept = _order_kept(best)
    if len(set(best.tolist())) == 1:
        layer = shorten(found.comparison.layers_b[best[0]], _NAME_LENGTH)
        return f"All layers of the first are nearest to one layer of the second, {layer}: none correspond one to one."
    same = _same_name(found)
    if same is not None and same[0] / same[1] > 0.5:
        return f"{same[0]} of {same[1]} layers that both have are nearest to the layer of their own name."
    if kept > 0.8:
        return "Deeper layers of the first correspond to deeper layers of the second."
    if kept > 0.4:
        return (
            "Depth corresponds roughly: some deeper layers of the first are nearest to shallower layers of the second."
        )
    return "The nearest layers do not follow depth."


def _order_kept(best: np.ndarray) -> float:
    """Rank correlation of depth and depth of the best match; 0 where all matches are one layer."""
    from repsim_jax.evaluation.agreement import rank_correlations

    pair = np.stack([np.arange(len(best), dtype=float), best.astype(float)])[:, :, None]
    value = rank_correlations(pair, (True, True))[0, 1]
    return float(value) if np.isfinite(value) else 0.0


def _same_name(found: "Digest") -> tuple[int, int] | None:
    comparison = found.comparison
    shared = [i for i, layer in enumerate(comparison.layers_a) if layer in comparison.layers_b]
    if not shared:
        return None
    hits = sum(comparison.layers_b[found.lead.best.layers[i]] == comparison.layers_a[i] for i in shared)
    return hits, len(shared)


def _agreement_sentence(found: "Digest") -> str:
    count, mean = len(found.readings), found.mean_correlation
    if count < 2 or not np.isfinite(mean) or found.lead.matrix.size < 3:
        return ""
    how = "much the same way" if mean > 0.8 else "roughly the same way" if mean > 0.5 else "differently"
    both = "Both" if count == 2 else f"The {count}"
    return f"{both} measures rank layer pairs {how} (mean rank correlation {number(mean, 2)})."


def _span(values: np.ndarray) -> str:
    return f"{number(float(values.min()), 2)} to {number(float(values.max()), 2)}"


def conclusions(found: "Digest") -> Conclusions:
    """What may and may not be concluded at this n.

    Args:
        found: From ``digest``.

    Returns:
        Three lists of plain sentences.
    """
    comparison = found.comparison
    cautions = [*map(_one_line, comparison.notes), *_small_n(found), *_thin_margins(found)]
    may = (
        f"On these {comparison.num_examples:,} examples, which layer pairs are more alike than others under each "
        "measure, and where two measures tell a different story.",
        *_invariance_sentences(found),
    )
    may_not = (
        "That alike layers do the same work or cause the same behavior: these measures see the geometry of the "
        "examples, not what later layers read from it.",
        "That values of two different measures can be compared with each other: only their ranking of layer pairs can.",
        "Anything about other data: the values belong to these examples, and shift with the data set.",
        "Small differences: every value is a point estimate here, without an interval.",
    )
    return Conclusions(may, may_not, tuple(dict.fromkeys(cautions)))


def _one_line(note: Any) -> str:
    return shorten(note, 600)


def _small_n(found: "Digest") -> list[str]:
    comparison = found.comparison
    n, width_a, width_b = comparison.num_examples, max(comparison.widths_a), max(comparison.widths_b)
    width, said = max(width_a, width_b), []
    biased = [one.title for one in found.readings if _is_inflated(found, one)]
    if biased:
        said.append(
            f"{_listed(biased)}: with {n:,} examples for up to {width:,} features (n/d = {n / width:.2g}) the value is "
            f"inflated; even unrelated representations of this size score well above zero{_chance(found)}. "
            "Rank layer pairs of equal width by it, or prefer the unbiased estimate."
        )
    canonical = [one.title for one in found.readings if one.name in CANONICAL]
    if canonical and n <= width_a + width_b:
        said.append(
            f"{_listed(canonical)}: n = {n:,} does not exceed the two widths together ({width_a:,} + {width_b:,}), so "
            "some directions correlate perfectly in any data; the value saturates towards 1 and tells little."
        )
    elif canonical and n < _ENOUGH_ROWS_PER_FEATURE * (width_a + width_b):
        said.append(
            f"{_listed(canonical)}: n = {n:,} is near the widths ({width_a:,} + {width_b:,}), which lifts the value."
        )
    return said


def _is_inflated(found: "Digest", reading: "MeasureReading") -> bool:
    width = max(*found.comparison.widths_a, *found.comparison.widths_b)
    return reading.name in BIASED and found.comparison.num_examples < _ENOUGH_ROWS_PER_FEATURE * width


def _chance(found: "Digest") -> str:
    """The expected value for unrelated data, sqrt(PR_x PR_y) / (n - 1), if the comparison brought it along."""
    chance = found.comparison.settings.get("chance")
    levels = chance.get("linear_cka") if isinstance(chance, dict) else None
    if levels is None:
        return ""
    levels = np.asarray(levels, dtype=float)
    if levels.size == 0 or not np.isfinite(levels).all():
        return ""
    at = number(float(levels.min()), 2) if levels.size == 1 else _span(levels)
    return f" (chance level of biased linear CKA here: {at})"


def _thin_margins(found: "Digest") -> list[str]:
    margins = found.lead.best.margins
    thin = int((margins < _THIN_MARGIN).sum())
    if not thin or len(margins) < 2:
        return []
    return [
        f"For {thin} of {len(margins)} layers the best and the second-best match differ by less than {_THIN_MARGIN:g} "
        f"({found.lead.title}): read these as a tie."
    ]


def _invariance_sentences(found: "Digest") -> tuple[str, ...]:
    grouped: dict[tuple[str, ...], list[str]] = {}
    for one in found.readings:
        if one.invariances:
            grouped.setdefault(one.invariances, []).append(one.title)
    return tuple(
        f"{_listed(titles)} {'does' if len(titles) == 1 else 'do'} not see {_listed(_nouns(invariances))}."
        for invariances, titles in grouped.items()
    )


def _nouns(invariances: tuple[str, ...]) -> list[str]:
    if "invertible linear" in invariances:
        return ["shifts and any invertible linear map"]
    return [_INVARIANCES.get(one, one) for one in invariances]


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
