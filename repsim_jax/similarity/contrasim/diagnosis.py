"""Can a fitted measure be believed? What it gets right on unseen examples and models, and what chance gives."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.linalg import nearest_rows
from repsim_jax.similarity.contrasim.collection import Collection
from repsim_jax.similarity.contrasim.measure import ContraSim
from repsim_jax.similarity.contrasim.objectives import set_scores
from repsim_jax.similarity.contrasim.scoring import encode_layers
from repsim_jax.similarity.contrasim.tables import read
from repsim_jax.training import Trained

_TASKS = {
    "layer": "which layer of one source is a layer of another? (the most similar one is taken)",
    "example": "which row of one source shows the example of a row of another? (the most similar one is taken)",
}
# Refits of the sensitivity; more groups than these cost more than they tell.
_MOST_GROUPS = 8
_PERMUTATIONS = 200
_MOST_EXAMPLES = 512
# Two rows that differ by less than this share of their size are the same example twice, or nearly.
_TWIN = 0.014


# Two sources, right decisions, all decisions, and how many of them guessing gets right.
Decision: TypeAlias = tuple[str, str, int, int, float]


class Accuracy(NamedTuple):
    """A share of right decisions.

    Attributes:
        correct: Decisions that were right.
        total: Decisions.
        chance: Share that guessing gets right.
        low: Lower end of Wilson's 95 % interval. Decisions that share models or examples are not independent, so the
            interval is too narrow where few of either are there.
        high: Its upper end.
    """

    correct: int
    total: int
    chance: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Right decisions among all."""
        return self.correct / self.total if self.total else 0.0


class Diagnosis(NamedTuple):
    """What is known about a fitted measure.

    Attributes:
        task: What a decision is, a clause.
        training: Accuracy on training examples of the sources that were fitted.
        seen: Accuracy on held-out examples of the sources that were fitted.
        unseen: Accuracy on held-out examples where at least one of the two sources was held out; None where none was.
        by_source: Accuracy on held-out examples for each source, against all others.
        chance_mean: Mean score of positives after the rows of one side were permuted: what a score says by itself.
        chance_high: 95th percentile of that.
        positive_mean: Mean score of positives on held-out examples.
        negative_mean: Mean score of negatives on held-out examples; NaN where there are none.
        positives: Positives of an item: fewest, median, most.
        negatives: Negatives of an item, median.
        effective_examples: Participation ratio of the training examples: how many different ones there are.
        twins: Share of training examples whose nearest other is the same, or nearly.
        sensitivity: Source (class, where two sources are all) to the change in accuracy among the others on held-out
            examples where a fit, a quarter as long, went without it; empty where that was not tried.
        verdict: What to conclude, in sentences, the most important first.
    """

    task: str
    training: Accuracy
    seen: Accuracy
    unseen: Accuracy | None
    by_source: dict[str, Accuracy]
    chance_mean: float
    chance_high: float
    positive_mean: float
    negative_mean: float
    positives: tuple[int, int, int]
    negatives: int
    effective_examples: float
    twins: float
    sensitivity: dict[str, float]
    verdict: tuple[str, ...]


class Item(NamedTuple):
    """One encoded layer of one source.

    Attributes:
        source: Whose.
        name: Class of positives.
        z: (n, q) unit rows.
    """

    source: str
    name: str
    z: jax.Array


def wilson(correct: int, total: int, *, chance: float = 0.0) -> Accuracy:
    r"""A share with its 95 % interval, :math:`(p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}) / (1 + z^2/n)`.

    Args:
        correct: Right decisions, at most ``total``.
        total: Decisions.
        chance: Share that guessing gets right.

    Returns:
        The share; the interval is [0, 1] where nothing was decided.

    Source:
        Wilson 1927, doi 10.1080/01621459.1927.10502953.
    """
    if total == 0:
        return Accuracy(0, 0, chance, 0.0, 1.0)
    z, p = 1.959964, correct / total
    middle = p + z * z / (2 * total)
    reach = z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return Accuracy(
        int(correct), int(total), float(chance),
        float(max((middle - reach) / scale, 0.0)), float(min((middle + reach) / scale, 1.0)),
    )  # fmt: skip


def diagnose(
    key: jax.Array,
    measure: ContraSim,
    collection: Collection,
    held_out: Sequence[str],
    test: np.ndarray,
    anchors: np.ndarray,
    train: np.ndarray,
    *,
    refit: Callable[[str | None], Trained] | None = None,
) -> Diagnosis:
    """Looks at a measure from all sides.

    Args:
        key: Random key of the permutations.
        measure: What was fitted.
        collection: All sources, those held out too.
        held_out: Sources that were not trained on.
        test: Numbers of the examples that were not trained on.
        anchors: Numbers of the anchor examples.
        train: Numbers of the training examples.
        refit: Trains again without a source or class, or with all (None), for a shorter time; None to leave it out.

    Returns:
        The diagnosis.
    """
    spread = _spread(test), _spread(np.setdiff1d(train, anchors) if len(train) > len(anchors) + 1 else train)
    items, trained_items = (encoded(measure, collection, anchors, rows) for rows in spread)
    decide = _layer_decisions if measure.options.positives == "layer" else _example_decisions
    decisions, before = decide(measure, items), decide(measure, trained_items)
    seen = [one for one in decisions if not {one[0], one[1]} & set(held_out)]
    unseen = [one for one in decisions if {one[0], one[1]} & set(held_out)]
    positive, negative, null = _calibration(key, measure, items)
    effective, twins = _diversity(collection, train)
    positives, negatives = _balance(measure, collection.without(held_out), len(train))
    found = Diagnosis(
        task=_TASKS[measure.options.positives],
        training=_total([one for one in before if not {one[0], one[1]} & set(held_out)]),
        seen=_total(seen),
        unseen=_total(unseen) if held_out else None,
        by_source={name: _total([one for one in decisions if name in one[:2]]) for name in collection.sides},
        chance_mean=float(null.mean()),
        chance_high=float(np.quantile(null, 0.95)),
        positive_mean=positive,
        negative_mean=negative,
        positives=positives,
        negatives=negatives,
        effective_examples=effective,
        twins=twins,
        sensitivity=_sensitivity(measure, collection, held_out, anchors, spread[0], refit),
        verdict=(),
    )
    return found._replace(verdict=tuple(verdict(found, measure)))


def encoded(measure: ContraSim, collection: Collection, anchors: np.ndarray, rows: np.ndarray) -> list[Item]:
    """All layers of all sources in the learned space, at some examples.

    Args:
        measure: What was fitted.
        collection: The sources.
        anchors: Numbers of the anchor examples.
        rows: Numbers of the examples.

    Returns:
        One item for each layer of each source, class by class.
    """
    items = []
    for group in collection.groups:
        for view in group.views:
            layers = read(collection, view, rows)[:, :, 0]
            by = list(read(collection, view, anchors)[:, :, 0]) if len(anchors) else None
            sources = [(view.source, layer) for layer in view.layers]
            z = encode_layers(measure, list(layers), anchors=by, sources=sources)
            items += [Item(view.source, name, one) for name, one in zip(group.classes, z, strict=True)]
    return items


def verdict(found: Diagnosis, measure: ContraSim) -> list[str]:
    """The diagnosis in words.

    Args:
        found: The numbers.
        measure: What was fitted.

    Returns:
        Sentences, the most important first.
    """
    said = []
    seen, unseen = found.seen, found.unseen
    if not seen.total:
        said.append("Nothing could be tested: no class has layers of two fitted sources.")
    elif seen.low <= seen.chance:
        said.append(f"Not usable: on new examples of its own sources it is right {_told(seen)}, not above chance.")
    if unseen is None:
        said.append("No source was held out: nothing is known about models that were not fitted.")
    elif unseen.low <= unseen.chance:
        said.append(f"Does not carry over to models that it has not seen: right {_told(unseen)}, not above chance.")
    elif unseen.high < seen.low:
        said.append(
            f"Weaker on models that it has not seen: right {_told(unseen)}, against {_told(seen)} on those it was "
            "fitted on. Scores of seen and unseen models must not be compared."
        )
    else:
        said.append(f"Carries over to the model that was held out: right {_told(unseen)}; fitted models {_told(seen)}.")
    if found.training.low > seen.high:
        said.append(f"Has learned its examples by heart in part: {_told(found.training)} on training examples.")
    if found.positive_mean <= found.chance_high:
        said.append(
            f"Positives score {found.positive_mean:.2f}, and {found.chance_mean:.2f} with their rows permuted: the "
            "measure does not look at which example is which."
        )
    if measure.options.objective in ("deep_dot", "deep_cka"):
        said.append("Fitted on positives alone: nothing keeps it from calling everything alike.")
    if found.twins > 0.05:
        said.append(f"{found.twins:.0%} of the training examples have a twin: held-out accuracy may be flattered.")
    if found.effective_examples < 10:
        said.append(f"The training examples vary in about {found.effective_examples:.0f} directions only.")
    heavy = [name for name, change in found.sensitivity.items() if change < -0.1]
    if heavy:
        said.append(f"Rests on {', '.join(heavy)}: without it more than a tenth of the decisions is lost.")
    return said


def _told(one: Accuracy) -> str:
    return f"{one.share:.0%} of the time ({one.low:.0%} to {one.high:.0%}, chance {one.chance:.0%})"


def _spread(rows: np.ndarray) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_EXAMPLES)).astype(int)]


def _layer_decisions(measure: ContraSim, items: list[Item]) -> list[Decision]:
    """For each layer of each source the most similar layer of each other source."""
    z = jnp.stack([item.z for item in items])
    scores = np.asarray(set_scores(z, z, options=measure.options))
    names, sources = (np.asarray([getattr(item, field) for item in items]) for field in ("name", "source"))
    made = []
    for a in dict.fromkeys(sources):
        for b in dict.fromkeys(sources):
            rows, columns = np.flatnonzero(sources == a), np.flatnonzero(sources == b)
            shared = rows[np.isin(names[rows], names[columns])]
            if a != b and len(shared):
                best = columns[scores[np.ix_(shared, columns)].argmax(1)]
                guessed = float((names[shared][:, None] == names[columns]).mean(1).sum())
                made.append((str(a), str(b), int((names[best] == names[shared]).sum()), len(shared), guessed))
    return made


def _example_decisions(_: ContraSim, items: list[Item]) -> list[Decision]:
    """For each row of each view the most similar row of each other view of the same class."""
    made = []
    for i, one in enumerate(items):
        for j, other in enumerate(items):
            if i != j and one.name == other.name:
                best = np.asarray((one.z @ other.z.T).argmax(1))
                made.append((one.source, other.source, int((best == np.arange(len(best))).sum()), len(best), 1.0))
    return made


def _total(decisions: list[Decision]) -> Accuracy:
    total = sum(one[3] for one in decisions)
    chance = sum(one[4] for one in decisions) / total if total else 0.0
    return wilson(sum(one[2] for one in decisions), total, chance=chance)


def _calibration(key: jax.Array, measure: ContraSim, items: list[Item]) -> tuple[float, float, np.ndarray]:
    """Mean scores of positives and of negatives, and the scores of positives whose rows were permuted."""
    z = jnp.stack([item.z for item in items])
    scores = np.asarray(set_scores(z, z, options=measure.options))
    names, sources = (np.asarray([getattr(item, field) for item in items]) for field in ("name", "source"))
    same = (names[:, None] == names[None]) & ~np.eye(len(items), dtype=bool)
    across = same & (sources[:, None] != sources[None])
    # A class may lie within one source: two layers of it that belong together.
    alike, apart = across if across.any() else same, names[:, None] != names[None]
    keys = jax.random.split(key, _PERMUTATIONS)
    pairs = np.argwhere(alike)
    if measure.options.positives == "example":
        dots = [z[i] @ z[j].T for i, j in pairs[:: max(1, len(pairs) // 20)]]
        n = z.shape[1]
        negative = float(np.mean([(one.sum() - jnp.trace(one)) / (n * (n - 1)) for one in dots]))
    else:
        negative = float(scores[apart].mean()) if apart.any() else float("nan")

    def shuffled(key: jax.Array, pair: jax.Array) -> jax.Array:
        left, right = z[pair[0]], z[pair[1]]
        order = jax.random.permutation(key, right.shape[0])
        return set_scores(left[None], right[order][None], options=measure.options)[0, 0]

    chosen = jnp.asarray(pairs[np.arange(_PERMUTATIONS) % len(pairs)])
    null = np.asarray(jax.lax.map(lambda both: shuffled(*both), (keys, chosen)))
    return float(scores[alike].mean()), negative, null


def _diversity(collection: Collection, train: np.ndarray) -> tuple[float, float]:
    """How many different examples there are, and how many have a twin, in the first layer of the first source."""
    view = collection.groups[0].views[0]
    x = np.asarray(read(collection, view, train[:: max(1, len(train) // 2048)])[0, :, 0], np.float64)
    centered = x - x.mean(0)
    gram = centered @ centered.T if len(x) < x.shape[1] else centered.T @ centered
    effective = float(np.trace(gram) ** 2 / np.maximum(np.square(gram).sum(), 1e-300))
    near = np.asarray(nearest_rows(jnp.asarray(x, jnp.float32), k=1))[:, 0]
    apart = np.linalg.norm(centered - centered[near], axis=1)
    return effective, float(np.mean(apart <= _TWIN * np.linalg.norm(centered, axis=1)))


def _balance(measure: ContraSim, collection: Collection, n: int) -> tuple[tuple[int, int, int], int]:
    """How many positives the items have (fewest, median, most), and how many negatives."""
    views = [len(group.views) for group in collection.groups for _ in group.classes]
    positives = np.repeat([count - 1 for count in views], views)
    total = sum(views)
    if measure.options.positives == "layer":
        negatives = np.repeat([total - count for count in views], views)
    else:
        batch = min(int(measure.settings.get("batch_size", n)), n)
        negatives = np.repeat([count * (batch - 1) for count in views], views)
    middle = int(np.median(positives))
    return (int(positives.min()), middle, int(positives.max())), int(np.median(negatives))


def _sensitivity(
    measure: ContraSim,
    collection: Collection,
    held_out: Sequence[str],
    anchors: np.ndarray,
    rows: np.ndarray,
    refit: Callable[[str | None], Trained] | None,
) -> dict[str, float]:
    """Change in accuracy where a source, or a class if there are two sources only, is left out of a shorter fit."""
    fitted = [name for name in collection.sides if name not in held_out]
    groups = fitted if len(fitted) > 2 else list(collection.classes)
    if refit is None or len(groups) < 2:
        return {}
    decide = _layer_decisions if measure.options.positives == "layer" else _example_decisions

    def decisions(drop: str | None, refit: Callable[[str | None], Trained] = refit) -> list[Decision]:
        other = replace(measure, params={**measure.params, **refit(drop).params})
        return decide(other, encoded(other, collection, anchors, rows))

    whole, changes = decisions(None), {}
    for name in groups[:_MOST_GROUPS]:
        # Among the other sources: what is lost to all, not only to the one that was left out.
        shares = [_total([one for one in made if name not in one[:2]]).share for made in (decisions(name), whole)]
        changes[name] = shares[0] - shares[1]
    return changes
