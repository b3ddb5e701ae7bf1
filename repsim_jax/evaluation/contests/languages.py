"""Translations: does a measure tell which sentences are translations, in languages and models it was not fitted on?"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from repsim_jax.activations import Layers
from repsim_jax.activations.reader import Store
from repsim_jax.errors import UnknownNameError
from repsim_jax.evaluation.contests.paired import Asked, Question, keyed, paired_standings
from repsim_jax.evaluation.contests.parts import Parts
from repsim_jax.evaluation.contests.standings import (
    CLOSED_PAIRED,
    Decisions,
    Recipe,
    Standing,
    Told,
    example_recipes,
    fitted,
)
from repsim_jax.similarity.contrasim import ContraSim

# Sets of 8 sentences as in the paper, and larger ones, which starve closed-form measures less.
SIZES = {8: 1, 64: 2}
_FITS = (("en", "de"), ("fr", "zh"), ("ru", "tr"))


def language_contest(
    contest: str,
    stores: Mapping[str, Store],
    *,
    layers: Sequence[str],
    elsewhere: Sequence[tuple[str, ContraSim]] = (),
    seed: int = 0,
    fits: Sequence[tuple[str, str]] = _FITS,
    num_pairs: int = 12,
    steps: int = 200,
    closed: Sequence[str] = CLOSED_PAIRED,
    recipes: Sequence[Recipe] | None = None,
    on_progress: Told | None = None,
    parts: Parts | None = None,
) -> tuple[list[Standing], list[tuple[str, ContraSim]]]:
    """Runs the choice of translations: fitted on one ordered pair of languages, asked about other pairs.

    Half of the sentences are for training and anchors, the other half is asked about.

    Args:
        contest: What to call it in the table.
        stores: Language to the store of one model over the same sentences.
        layers: Layers that are fitted and asked about, of one width.
        elsewhere: Measures fitted on another model, with their titles, to be asked as well ("another model").
        seed: Of splits, fits, pairs and intervals.
        fits: Ordered pairs of languages to train on, each a fit of its own.
        num_pairs: Pairs of languages to ask about, drawn from all unordered pairs that no fit trained on.
        steps: Updates of each fit.
        closed: Registered measures.
        recipes: Learned contestants.
        on_progress: Called with a line for each step.
        parts: Where fits and answers are kept, so that an interrupted contest goes on; by default nowhere.

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
    arrays = [array for one in data.values() for array in one.values()]
    arrays += [np.asarray(leaf) for _, measure in elsewhere for leaf in jax.tree.leaves(measure.params)]
    settings = {
        "contest": contest, "seed": seed, "fits": tuple(fits), "recipes": chosen, "closed": tuple(closed),
        "elsewhere": [title for title, _ in elsewhere],
    }  # fmt: skip
    kept = (parts or Parts(None)).of(arrays, settings)
    measures = list(_fitted(data, ids, train, chosen, fits, seed, kept, on_progress))
    pairs = [pair for pair in itertools.combinations(stores, 2) if not {pair, pair[::-1]} & set(fits)]
    picked = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))[:num_pairs]]
    decisions: Decisions = {}
    for first, second in picked:
        if on_progress is not None:
            on_progress(f"{contest}: {first} and {second}")

        def answer(first: str = first, second: str = second) -> Decisions:
            made: Decisions = {}
            for layer in layers:
                question = _question(contest, data, first, second, layer, train, test)
                for line, units in _answers(question, seed, measures, elsewhere, closed).items():
                    made.setdefault(line, []).extend(units)
            # A pair of languages is the unit that intervals resample; its layers are no independent ones.
            return {line: [np.concatenate(units)] for line, units in made.items()}

        for line, units in kept.answers(f"{first} and {second}", answer).items():
            decisions.setdefault(line, []).extend(units)
    carried = [(name, one) for name, _, one in measures if one.options.input == "relative"]
    return paired_standings(decisions, seed=seed), carried


def _fitted(
    data: Mapping[str, Mapping[str, np.ndarray]],
    ids: Sequence[str],
    train: np.ndarray,
    recipes: Sequence[Recipe],
    fits: Sequence[tuple[str, str]],
    seed: int,
    kept: Parts,
    on_progress: Told | None,
) -> Iterator[tuple[str, str, ContraSim]]:
    """Each contestant fitted on each pair: (title, what it was trained on, measure)."""
    named = tuple(ids[int(i)] for i in train)
    for number, pair in enumerate(fits):
        sources = {one: Layers(one, {layer: x[train] for layer, x in data[one].items()}, named) for one in pair}
        for place, recipe in enumerate(recipes):
            if on_progress is not None:
                on_progress(f"fitting {recipe.name} on {' and '.join(pair)}")

            def make(
                parts: tuple[int, int] = (number, place),
                sources: dict[str, Layers] = sources,
                recipe: Recipe = recipe,
            ) -> ContraSim:
                return fitted(keyed(seed, *parts), sources, recipe, anchors=named)

            yield recipe.name, "other languages", kept.measure(f"{recipe.name} on {pair}", make)


def _question(
    contest: str,
    data: Mapping[str, Mapping[str, np.ndarray]],
    first: str,
    second: str,
    layer: str,
    train: np.ndarray,
    test: np.ndarray,
) -> Question:
    x, y = data[first][layer], data[second][layer]
    return Question(contest, x[test], y[test], x[train], y[train], (first, layer), (second, layer))


def _answers(
    question: Question,
    seed: int,
    measures: Sequence[tuple[str, str, ContraSim]],
    elsewhere: Sequence[tuple[str, ContraSim]],
    closed: Sequence[str],
) -> Decisions:
    asked = Asked(question, SIZES, seed=seed)
    asked.ask_closed(closed)
    asked.ask_anchored()
    asked.ask_cosine()
    for title, trained_on, measure in measures:
        asked.ask_learned(title, trained_on, measure)
    for title, measure in elsewhere:
        asked.ask_learned(title, "another model", measure)
    return asked.decisions()
