"""Translations: does a measure tell which sentences are translations, in languages and models it was not fitted on?"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from repsim_jax.activations import Layers
from repsim_jax.activations.reader import Store
from repsim_jax.errors import UnknownNameError
from repsim_jax.evaluation.contests.paired import Answers, Question, keyed
from repsim_jax.evaluation.contests.standings import CLOSED_PAIRED, Recipe, Standing, Told, example_recipes, fitted
from repsim_jax.similarity.contrasim import ContraSim

# Sets of 8 sentences as in the paper, and larger ones, which starve closed-form measures less.
SIZES = {8: 1, 64: 2}
_FITS = (("en", "de"), ("fr", "zh"), ("ru", "tr"))


def language_contest(
    contest: str,
    stores: Mapping[str, Store],
    *,
    layers: Sequence[str],
    elsewhere: Mapping[str, ContraSim] | None = None,
    seed: int = 0,
    fits: Sequence[tuple[str, str]] = _FITS,
    num_pairs: int = 12,
    steps: int = 200,
    closed: Sequence[str] = CLOSED_PAIRED,
    recipes: Sequence[Recipe] | None = None,
    on_progress: Told | None = None,
) -> tuple[list[Standing], dict[str, ContraSim]]:
    """Runs the choice of translations: fitted on one ordered pair of languages, asked about other pairs.

    Half of the sentences are for training and anchors, the other half is asked about.

    Args:
        contest: What to call it in the table.
        stores: Language to the store of one model over the same sentences.
        layers: Layers that are fitted and asked about, of one width.
        elsewhere: Measures fitted on another model, by title, to be asked as well ("another model").
        seed: Of splits, fits, pairs and intervals.
        fits: Ordered pairs of languages to train on, each a fit of its own.
        num_pairs: Pairs of languages to ask about, drawn from all unordered pairs that no fit trained on.
        steps: Updates of each fit.
        closed: Registered measures.
        recipes: Learned contestants.
        on_progress: Called with a line for each step.

    Returns:
        A line for each contestant, kind of negatives and n; and the measures that carry over to other models.

    Raises:
        UnknownNameError: If a language of ``fits`` has no store.
    """
    for language in itertools.chain(*fits):
        if language not in stores:
            raise UnknownNameError.of("language", language, stores)
    ids = next(iter(stores.values())).ids
    order = np.random.default_rng(seed).permutation(len(ids))
    train, test = order[: len(ids) // 2], order[len(ids) // 2 :]
    data = {name: {one: store.read(one).astype(np.float32) for one in layers} for name, store in stores.items()}
    chosen = example_recipes("raw", steps) if recipes is None else recipes
    measures = list(_fitted(data, ids, train, chosen, fits, seed, on_progress))
    pairs = [pair for pair in itertools.combinations(stores, 2) if not {pair, pair[::-1]} & set(fits)]
    picked = np.random.default_rng(seed).permutation(len(pairs))[:num_pairs]
    answers = Answers(contest, SIZES, seed=seed)
    for place in picked:
        first, second = pairs[int(place)]
        if on_progress is not None:
            on_progress(f"{contest}: {first} and {second}")
        for layer in layers:
            _ask(answers, _question(data, first, second, layer, train, test), measures, elsewhere or {}, closed)
    return answers.standings(), {name: one for name, _, one in measures if one.options.input == "relative"}


def _fitted(
    data: Mapping[str, Mapping[str, np.ndarray]],
    ids: Sequence[str],
    train: np.ndarray,
    recipes: Sequence[Recipe],
    fits: Sequence[tuple[str, str]],
    seed: int,
    on_progress: Told | None,
) -> Iterator[tuple[str, str, ContraSim]]:
    """Each contestant fitted on each pair: (title, what it was trained on, measure)."""
    for number, (first, second) in enumerate(fits):
        named = tuple(ids[int(i)] for i in train)
        sources = {
            language: Layers(language, {layer: x[train] for layer, x in data[language].items()}, named)
            for language in (first, second)
        }
        for place, recipe in enumerate(recipes):
            if on_progress is not None:
                on_progress(f"fitting {recipe.name} on {first} and {second}")
            measure = fitted(keyed(seed, number, place), sources, recipe, anchors=named)
            yield recipe.name, "other languages", measure


def _question(
    data: Mapping[str, Mapping[str, np.ndarray]],
    first: str,
    second: str,
    layer: str,
    train: np.ndarray,
    test: np.ndarray,
) -> Question:
    x, y = data[first][layer], data[second][layer]
    return Question(
        f"{first}, {second}, {layer}", x[test], y[test], x[train], y[train], (first, layer), (second, layer)
    )


def _ask(
    answers: Answers,
    question: Question,
    measures: Sequence[tuple[str, str, ContraSim]],
    elsewhere: Mapping[str, ContraSim],
    closed: Sequence[str],
) -> None:
    answers.ask_closed(closed, question)
    answers.ask_anchored(question)
    if question.x.shape[1] == question.y.shape[1]:
        answers.ask_cosine(question)
    for title, trained_on, measure in measures:
        answers.ask_learned(title, trained_on, measure, question)
    for title, measure in elsewhere.items():
        answers.ask_learned(title, "another model", measure, question)
