"""Image and caption: does a measure tell which captions belong to which images, for models it was not fitted on?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from repsim_jax.activations import Layers
from repsim_jax.activations.reader import Store
from repsim_jax.errors import AlignmentError, BadArrayError
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

# Sets of 8 are the paper's for sentences, of 64 its for captions; how often the examples are cut into such sets.
SIZES = {8: 2, 64: 4}
_SIZES_ELSEWHERE = {8: 4}
# Between the id of an image and the number of its caption; no id of a file or a row has it.
_MARK = "\x1f"


class Paired(NamedTuple):
    """Images and captions under several models, one layer each.

    Attributes:
        images: Model to (n, d).
        texts: Model to (n, v, d): v captions of each image; the first is the one that is asked about.
        ids: n images.
    """

    images: dict[str, np.ndarray]
    texts: dict[str, np.ndarray]
    ids: tuple[str, ...]


def paired(
    images: Mapping[str, tuple[Store, str]],
    texts: Mapping[str, tuple[Store, str]],
    *,
    example: Callable[[str], str],
) -> Paired:
    """Reads one layer of every model, and finds the captions of each image.

    Args:
        images: Model to its store and layer; rows are images.
        texts: Model to its store and layer; rows are captions.
        example: ``example(id)`` of a caption is the id of its image.

    Returns:
        The arrays, in the order of the first image store.

    Raises:
        AlignmentError: If an image has no caption, or images differ in how many they have.
    """
    ids = next(iter(images.values()))[0].ids
    places: dict[str, list[int]] = {}
    for row, one in enumerate(next(iter(texts.values()))[0].ids):
        places.setdefault(example(one), []).append(row)
    counts = {len(places.get(one, ())) for one in ids}
    if len(counts) != 1 or 0 in counts:
        raise AlignmentError(f"every image needs the same number of captions, at least one: got {sorted(counts)}.")
    rows = np.asarray([places[one] for one in ids])
    return Paired(
        {name: store.read(layer).astype(np.float32) for name, (store, layer) in images.items()},
        {name: store.read(layer).astype(np.float32)[rows] for name, (store, layer) in texts.items()},
        ids,
    )


def caption_contest(
    data: Paired,
    *,
    elsewhere: Paired | None = None,
    seeds: Sequence[int] = (0, 1),
    train_share: float = 4 / 7,
    steps: int = 300,
    closed: Sequence[str] = CLOSED_PAIRED,
    recipes: Sequence[Recipe] | None = None,
    on_progress: Told | None = None,
    parts: Parts | None = None,
) -> list[Standing]:
    """Runs the choice of captions over all pairs of an image model and a text model.

    For each pair and seed, measures are fitted on the pair itself (other images: "the tested models") and, with
    relative input, on all models but these two ("other models"). Anchors and training examples are the same for all.

    Args:
        data: Images and captions; cut into training and test by each seed.
        elsewhere: Another data set, asked about as well (fitted on ``data``).
        seeds: Of splits and fits.
        train_share: Share of the images to train on; the anchors are all of them.
        steps: Updates of each fit.
        closed: Registered measures.
        recipes: Learned contestants, the first of which is also fitted on other models.
        on_progress: Called with a line for each pair of models.
        parts: Where answers are kept, so that an interrupted contest goes on; by default nowhere.

    Returns:
        A line for each contestant, kind of negatives and n.

    Raises:
        BadArrayError: If there are fewer than two image or text models, so that none could be kept unseen.
    """
    if min(len(data.images), len(data.texts)) < 2:
        raise BadArrayError("caption_contest needs two image models and two text models at least, to keep some unseen.")
    both = [data] if elsewhere is None else [data, elsewhere]
    arrays = [array for one in both for array in (*one.images.values(), *one.texts.values())]
    settings = {"contest": "captions", "train_share": train_share, "recipes": recipes or steps, "closed": tuple(closed)}
    kept = (parts or Parts(None)).of(arrays, settings)
    decisions: Decisions = {}
    for seed in seeds:
        for i, image in enumerate(data.images):
            for j, text in enumerate(data.texts):
                if on_progress is not None:
                    on_progress(f"image and caption, seed {seed}: {image} and {text}")

                def answer(place: tuple[int, int, int] = (seed, i, j), pair: tuple[str, str] = (image, text)):
                    return _answers(data, elsewhere, pair, place, train_share, steps, closed, recipes)

                for line, units in kept.answers(f"seed {seed}, {image} and {text}", answer).items():
                    decisions.setdefault(line, []).extend(units)
    return paired_standings(decisions, seed=0)


def _answers(
    data: Paired,
    elsewhere: Paired | None,
    pair: tuple[str, str],
    place: tuple[int, int, int],
    train_share: float,
    steps: int,
    closed: Sequence[str],
    recipes: Sequence[Recipe] | None,
) -> Decisions:
    """All contestants' answers for one image model and one text model."""
    order = np.random.default_rng(place[0]).permutation(len(data.ids))
    train, test = np.split(order, [round(train_share * len(order))])
    asked = [Asked(_question("image and caption", data, data, *pair, train, test), SIZES, seed=0)]
    if elsewhere is not None:
        title, everything = "image and caption, other data set", np.arange(len(elsewhere.ids))
        asked.append(Asked(_question(title, data, elsewhere, *pair, train, everything), _SIZES_ELSEWHERE, seed=0))
    measures = list(_measures(data, *pair, train, place, steps, recipes))
    # Every pair has widths of its own, and each program takes some of the few maps a process may have.
    jax.clear_caches()
    for one in asked:
        one.ask_closed(closed)
        one.ask_anchored()
        for title, trained_on, measure in measures:
            one.ask_learned(title, trained_on, measure)
    return {line: units for one in asked for line, units in one.decisions().items()}


def _question(
    contest: str, data: Paired, asked: Paired, image: str, text: str, train: np.ndarray, test: np.ndarray
) -> Question:
    return Question(
        contest,
        asked.images[image][test], asked.texts[text][test, 0],
        data.images[image][train], data.texts[text][train, 0],
        (image, "x"), (text, "x"),
    )  # fmt: skip


def _measures(
    data: Paired,
    image: str,
    text: str,
    train: np.ndarray,
    place: tuple[int, ...],
    steps: int,
    recipes: Sequence[Recipe] | None,
) -> Iterator[tuple[str, str, ContraSim]]:
    """Learned measures with what they were trained on; the arrays of anchors are those of their question."""
    anchors = [data.ids[i] for i in train]
    pair = {name: _source(data, name, train) for name in (image, text)}
    same = data.images[image].shape[1] == data.texts[text].shape[2]
    chosen = example_recipes("raw" if same else "projected", steps) if recipes is None else recipes
    for number, recipe in enumerate(chosen):
        measure = fitted(keyed(*place, number), pair, recipe, anchors=anchors, examples=_image_of)
        yield recipe.name, "the tested models", measure
    others = {name: _source(data, name, train) for name in (*data.images, *data.texts) if name not in (image, text)}
    for number, recipe in enumerate(one for one in chosen if one.options.input == "relative"):
        measure = fitted(keyed(*place, 100 + number), others, recipe, anchors=anchors, examples=_image_of)
        yield recipe.name, "other models", measure


def _source(data: Paired, name: str, train: np.ndarray) -> Layers:
    if name in data.images:
        return Layers(name, {"x": data.images[name][train]}, tuple(data.ids[i] for i in train))
    rows = data.texts[name][train]
    ids = tuple(f"{data.ids[i]}{_MARK}{k}" for i in train for k in range(rows.shape[1]))
    return Layers(name, {"x": rows.reshape(-1, rows.shape[-1])}, ids)


def _image_of(one: str) -> str:
    return one.split(_MARK)[0]
