"""Layer prediction: is the same layer of another network, trained from another seed, found among all its layers?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.activations import Layers
from repsim_jax.activations.reader import Store
from repsim_jax.errors import BadArrayError
from repsim_jax.evaluation.contests.parts import Parts
from repsim_jax.evaluation.contests.standings import (
    CLOSED,
    Decisions,
    Line,
    Recipe,
    Standing,
    Told,
    closed_pairs,
    encoded_pairs,
    fitted,
    layer_recipes,
    standings,
    untrained,
)
from repsim_jax.evaluation.protocols import Interval, Pairs, bootstrap_models, layer_accuracy
from repsim_jax.similarity import contrasim

_SIZES = (8, 32, 128)
# Closed-form measures of all layer pairs of all models take n^2 here; beyond this their answers hardly change.
_MOST_TEST = 512
_SUBSETS = 8
_FEWEST_MODELS = 6


class _Fold(NamedTuple):
    """Models to learn from and models to be asked about, examples likewise.

    Attributes:
        seen: Numbers of the models that learned measures are fitted on.
        unseen: Numbers of the others.
        anchors: Example numbers.
        train: Example numbers; the anchors are among them.
        test: Example numbers.
    """

    seen: np.ndarray
    unseen: np.ndarray
    anchors: np.ndarray
    train: np.ndarray
    test: np.ndarray


class _Entry(NamedTuple):
    """A contestant's view of all models, at the test examples.

    Attributes:
        name: Who.
        family: As in ``Standing``.
        arrays: (models, layers, n, q).
        pairs: How two lists of layers are scored.
        is_cosine: Whether that is a mean of row products, which one matrix product gives for all models.
    """

    name: str
    family: Any
    arrays: np.ndarray
    pairs: Pairs
    is_cosine: bool


def layer_contest(
    contest: str,
    stores: Mapping[str, Store],
    *,
    seed: int = 0,
    num_folds: int | None = None,
    num_anchors: int = 128,
    steps: int = 300,
    recipes: Sequence[Recipe] | None = None,
    closed: Sequence[str] = CLOSED,
    on_progress: Told | None = None,
    parts: Parts | None = None,
) -> list[Standing]:
    """Runs layer prediction over networks that differ in their seed, each tested while unseen.

    The networks are cut into folds; measures are fitted on all but one fold, and asked about that fold (unseen models)
    and about the others (seen models), always on examples that were not trained on. Every measure is given the same n
    examples; n is swept, since the paper compares at sizes that starve closed-form measures.

    Args:
        contest: What to call it in the table.
        stores: Network to store, over the same examples, with the same layers of equal width.
        seed: Of splits, fits and intervals.
        num_folds: Folds of models; by default three, or two where there are fewer than nine networks.
        num_anchors: Anchor examples of relative input.
        steps: Updates of each fit.
        recipes: Learned contestants; by default ours, the paper's and the baselines.
        closed: Registered measures.
        on_progress: Called with a line for each contestant.
        parts: Where answers are kept, so that an interrupted contest goes on; by default nowhere.

    Returns:
        A line for each contestant, for seen and unseen models, and each n.

    Raises:
        BadArrayError: If there are too few networks to keep some unseen.
    """
    names = list(stores)
    num_folds = (2 if len(names) < 9 else 3) if num_folds is None else num_folds
    if len(names) < max(_FEWEST_MODELS, 2 * num_folds):
        raise BadArrayError(
            f"layer_contest needs at least {max(_FEWEST_MODELS, 2 * num_folds)} networks, got {len(names)}."
        )
    data = np.stack([[store.read(layer).astype(np.float32) for layer in store.layers] for store in stores.values()])
    chosen = layer_recipes(steps) if recipes is None else recipes
    settings = {"contest": contest, "seed": seed, "folds": num_folds, "anchors": num_anchors, "recipes": chosen}
    kept = (parts or Parts(None)).of([data], settings)
    folds = _folds(np.random.default_rng(seed), len(names), data.shape[2], num_folds, num_anchors)
    first = next(iter(stores.values()))
    decisions: Decisions = {}
    for number, fold in enumerate(folds):
        key = jax.random.key(1000 * seed + number)
        for name, enter in _entries(key, data, names, first.ids, first.layers, fold, chosen, closed):
            if on_progress is not None:
                on_progress(f"{contest}, fold {number + 1} of {len(folds)}: {name}")

            def answer(number: int = number, fold: _Fold = fold, enter: Callable[[], _Entry] = enter) -> Decisions:
                return _asked(contest, enter(), fold, np.random.default_rng((seed, number)))

            for line, tables in kept.answers(f"fold {number}, {name}", answer).items():
                decisions.setdefault(line, []).extend(tables)

    def interval(tables: list[np.ndarray]) -> Interval:
        return bootstrap_models(np.random.default_rng(seed), tables, layers=data.shape[1])

    return standings(decisions, 1.0 / data.shape[1], interval)


def _folds(
    generator: np.random.Generator, num_models: int, num_examples: int, num_folds: int, num_anchors: int
) -> list[_Fold]:
    order = generator.permutation(num_models)
    made = []
    for part in np.array_split(order, num_folds):
        examples = generator.permutation(num_examples)
        train = examples[: int(0.6 * num_examples)]
        anchors = train[: min(num_anchors, len(train) // 2)]
        test = examples[len(train) :][:_MOST_TEST]
        made.append(_Fold(np.setdiff1d(order, part), np.sort(part), anchors, train, test))
    return made


def _entries(
    key: jax.Array,
    data: np.ndarray,
    names: Sequence[str],
    ids: Sequence[str],
    layers: Sequence[str],
    fold: _Fold,
    recipes: Sequence[Recipe],
    closed: Sequence[str],
) -> Iterator[tuple[str, Callable[[], _Entry]]]:
    """Contestants, each by name and by what makes its view of the models, so that only one's arrays are held."""
    test, anchors = data[:, :, fold.test], data[:, :, fold.anchors]
    for name in closed:
        yield name, lambda name=name: _Entry(name, "closed form", test, closed_pairs(name), False)
    cosine = encoded_pairs(contrasim.Options())
    for title, whiten in (("relative cosine, whitened", True), ("relative cosine", False)):
        yield (
            title,
            lambda title=title, whiten=whiten: _Entry(
                title, "anchors only", untrained(test, anchors, whiten=whiten), cosine, True
            ),
        )
    train_ids = tuple(ids[int(i)] for i in fold.train)
    sources = {
        names[int(m)]: Layers(names[int(m)], {one: data[m, k, fold.train] for k, one in enumerate(layers)}, train_ids)
        for m in fold.seen
    }

    def learned(number: int, recipe: Recipe) -> _Entry:
        anchor_ids = [ids[int(i)] for i in fold.anchors]
        measure = fitted(jax.random.fold_in(key, number), sources, recipe, anchors=anchor_ids)
        order = np.asarray([ids.index(one) for one in measure.anchor_ids], int)
        encoded = [
            np.asarray(contrasim.encode_layers(measure, list(one[:, fold.test]), anchors=list(one[:, order]) or None))
            for one in data
        ]
        is_cosine = recipe.options.objective != "deep_cka"
        return _Entry(recipe.name, "learned", np.stack(encoded), encoded_pairs(recipe.options), is_cosine)

    for number, recipe in enumerate(recipes):
        yield recipe.name, lambda number=number, recipe=recipe: learned(number, recipe)


def _asked(contest: str, entry: _Entry, fold: _Fold, generator: np.random.Generator) -> Decisions:
    """Accuracies of unseen and of seen models for each n; over several subsets of the examples where n is small."""
    total = entry.arrays.shape[2]
    answers: Decisions = {}
    for size in (*[one for one in _SIZES if one < total], total):
        subsets = [np.sort(generator.permutation(total)[:size]) for _ in range(_SUBSETS if size < 128 else 1)]
        for who, models in (("other models", fold.unseen), ("the tested models", fold.seen)):
            if entry.family != "learned" and who == "the tested models":
                continue
            tables = [layer_accuracy(_scores(entry, models, rows)) for rows in subsets]
            line = Line(contest, entry.name, entry.family, who if entry.family == "learned" else "", "", size)
            answers[line] = [np.mean(tables, axis=0)]
    return answers


def _scores(entry: _Entry, models: np.ndarray, rows: np.ndarray) -> np.ndarray:
    chosen = entry.arrays[models][:, :, rows]
    count, depth, n = chosen.shape[:3]
    if entry.is_cosine:
        flat = chosen.reshape(count * depth, -1)
        return (flat @ flat.T / n).reshape(count, depth, count, depth).transpose(0, 2, 1, 3)
    # All layers of all models in one call: what a measure takes from each layer is computed once.
    flat = [jnp.asarray(layer) for model in chosen for layer in model]
    scores = np.asarray(entry.pairs(flat, flat), float)
    return scores.reshape(count, depth, count, depth).transpose(0, 2, 1, 3)
