"""PCA, a kernel or a network on these data? Small versions of each, compared on examples that none has seen."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from repsim_jax.errors import BadArrayError, DivergedError
from repsim_jax.similarity import compare
from repsim_jax.theory.learners import Fitted, Maker, Motion, Recipe, Split, fitted, makers
from repsim_jax.theory.probes import scores
from repsim_jax.theory.verdicts import Gain, Kind, Verdict, judge
from repsim_jax.theory.wording import reason_told

# Below it a third of the examples says nothing about the rest.
_FEWEST = 30
MEASURES = ("linear_cka_unbiased", "procrustes", "mutual_knn")
# Views of each training example that are drawn where the user gives a way to draw them.
_NUM_VIEWS = 8


class Learner(NamedTuple):
    """What came of one way to learn.

    Attributes:
        name: "kernel PCA".
        kind: "pca", "kernel" or "network".
        scores: (s,) of each seed, by metric, see ``probes.METRICS``.
        seconds: (s,) of each seed for fitting and embedding; the first includes compilation.
        num_components: Embedding size.
        reached: (s,) share of its training that was done: below one where the flow of a kernel ended early.
        motion: Of a network and each seed: how far its tangent kernel moved.
    """

    name: str
    kind: Kind
    scores: dict[str, np.ndarray]
    seconds: np.ndarray
    num_components: int
    reached: np.ndarray
    motion: tuple[Motion, ...] = ()


class Advice(NamedTuple):
    """Where to start on these data, and what that rests on.

    Attributes:
        verdict: "pca", "kernel", "network" or "undecided".
        reason: In words and numbers.
        metric: What the verdict is about: "probe" where there are labels, else "retrieval".
        margin: Gain that was said to matter.
        learners: The cheapest first.
        gains: That the verdict rests on, with their bounds.
        alike: (L, L) mean over seeds of each measure of ``similarity``, between held-out embeddings of all learners.
        num_train: Training examples of each seed.
        num_test: Test examples of each seed.
        num_features: Of an example.
        settings: What else there is to know. ``left_out`` names networks whose training diverged in some split, with
            the reason: the others are judged without them.
    """

    verdict: Verdict
    reason: str
    metric: str
    margin: float
    learners: tuple[Learner, ...]
    gains: tuple[Gain, ...]
    alike: dict[str, np.ndarray]
    num_train: int
    num_test: int
    num_features: int
    settings: dict[str, Any]


ViewMaker = Callable[[jax.Array, np.ndarray], Any]
_Run = tuple[Fitted, dict[str, float]]


def advise(
    key: jax.Array,
    data: Float[ArrayLike, "n ..."],
    *,
    labels: ArrayLike | None = None,
    views: Float[ArrayLike, "n ..."] | ViewMaker | None = None,
    view_noise: float = 0.3,
    num_train: int = 1000,
    num_test: int = 500,
    num_seeds: int = 8,
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    margin: float = 0.02,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Advice:
    r"""Fits small learners of each kind on random splits, and says whether a kernel or a network pays over PCA.

    Learners: PCA; PCA of the analytic NTK; contrastive PCA of random features (the linear loss in closed form); an
    infinitely wide network under NT-Xent, by gradient flow with its kernel; a network of one hidden layer for each
    width, trained with NT-Xent and Adam. All embed into as many dimensions, and are judged on test examples of the same
    splits: by the accuracy of a ridge probe where there are labels, otherwise by how often another view of an example
    finds it among all.

    The rule, in ``verdicts.judge``: a dearer kind pays if its gain reaches the margin and the 95 % lower bound of
    that gain, for all learners together, is positive; it is dismissed if the 95 % upper bound is below the margin; what
    is neither leaves the verdict undecided, as do scores at chance. Bounds are of the corrected paired t test for
    random splits of the same examples (Nadeau and Bengio 2003). It is about these learners at these sizes. A deep or
    convolutional network that is trained for days may pay where this one does not. All learners see the same views but
    the contrastive kernel, which takes as many pairs as ``recipe.most_pairs`` allows, and kernel PCA and PCA, which
    take none.

    Args:
        key: Random key; draws splits, views and networks.
        data: Examples, one a row; images are flattened.
        labels: (n,) classes, two or more, or None.
        views: Another view of each example, of the shape of the data; or ``views(key, examples)`` that draws one; None
            adds Gaussian noise.
        view_noise: Norm of that noise relative to the typical norm of a centered example, > 0.
        num_train: Training examples of each seed; at most two thirds of all.
        num_test: Test examples of each seed; at most one third of all.
        num_seeds: Random splits, at least 3; each has its own networks.
        recipe: How the learners are made.
        margin: Gain of the metric that matters, > 0.
        on_progress: Called as ``on_progress(name of a learner, done, total)`` before each fit and after the last.

    Returns:
        The advice.

    Raises:
        BadArrayError: If examples are too few, not finite or all equal; labels or views do not fit; or a number is out
            of range.
        UnknownNameError: If the recipe names something unknown.
        DivergedError: If the training of every network diverged.
        MissingPackageError: If diffrax is not installed.
    """
    _check_numbers(view_noise, num_seeds, margin)
    x, classes = _checked(data, labels)
    draw, other = _views(views, x, np.shape(data), view_noise)
    num_train, num_test = _sizes(len(x), num_train, num_test, recipe)
    chosen, runs, left_out = makers(recipe), [], {}
    for seed, one in enumerate(jax.random.split(key, num_seeds)):
        key_rows, key_views, key_fit = jax.random.split(one, 3)
        rows = np.asarray(jax.random.permutation(key_rows, len(x)))[: num_train + num_test]
        split = _split(key_views, x, other, rows, num_train, draw)
        sides = (None, None) if classes is None else (classes[rows[:num_train]], classes[rows[num_train:]])
        run = {}
        for place, maker in enumerate(chosen):
            if on_progress is not None:
                on_progress(f"{maker.name}, seed {seed}", seed * len(chosen) + place, num_seeds * len(chosen))
            if maker.name not in left_out:
                made = _attempted(jax.random.fold_in(key_fit, place), maker, split, recipe, left_out)
                run[maker.name] = made and (made, scores(made.embedded, *sides))
        runs.append(run)
    if on_progress is not None:
        on_progress("done", num_seeds * len(chosen), num_seeds * len(chosen))
    chosen = _remaining(chosen, left_out)
    runs = [[run[maker.name] for maker in chosen] for run in runs]
    learners = _learners(chosen, runs)
    settings = {"recipe": asdict(recipe), "num_seeds": num_seeds, **_told_views(views, view_noise)}
    # A guess takes the largest class, or any of the test examples.
    chance = 1.0 / num_test if classes is None else float(np.unique(classes, return_counts=True)[1].max() / len(x))
    settings["chance"] = chance
    settings["left_out"] = left_out
    return _advice(learners, runs, margin, chance, (num_train, num_test, x.shape[1]), settings)


def _attempted(key: jax.Array, maker: Maker, split: Split, recipe: Recipe, left_out: dict[str, str]) -> Fitted | None:
    """A learner on a split; where its training diverges, the reason is noted and it takes part no more."""
    try:
        return fitted(key, maker, split, recipe)
    except DivergedError as error:
        left_out[maker.name] = str(error)
        return None


def _remaining(chosen: tuple[Maker, ...], left_out: dict[str, str]) -> tuple[Maker, ...]:
    kept = tuple(maker for maker in chosen if maker.name not in left_out)
    if not any(maker.kind == "network" for maker in kept):
        raise DivergedError(
            f"advise cannot judge networks, since the training of each diverged: {next(iter(left_out.values()))}"
        )
    return kept


def _advice(
    learners: tuple[Learner, ...], runs: list[list[_Run]], margin: float, chance: float, sizes: tuple[int, int, int],
    settings: dict[str, Any],
) -> Advice:  # fmt: skip
    metric = "probe" if "probe" in learners[0].scores else "retrieval"
    judged = judge(
        {one.name: one.scores[metric] for one in learners}, {one.name: one.kind for one in learners},
        ratio=sizes[1] / sizes[0], margin=margin, chance=chance,
    )  # fmt: skip
    tables = [_alike({one.name: run[i][0].embedded.test for i, one in enumerate(learners)}) for run in runs]
    alike = {name: np.mean([table[name] for table in tables], axis=0) for name in MEASURES}
    reason = reason_told(judged, learners, metric, margin, alike[MEASURES[0]])
    return Advice(judged.verdict, reason, metric, margin, learners, judged.gains, alike, *sizes, settings)


def _learners(chosen: tuple[Maker, ...], runs: list[list[_Run]]) -> tuple[Learner, ...]:
    return tuple(
        Learner(
            name=maker.name,
            kind=maker.kind,
            scores={name: np.array([run[i][1][name] for run in runs]) for name in runs[0][i][1]},
            seconds=np.array([run[i][0].seconds for run in runs]),
            num_components=runs[0][i][0].embedded.test.shape[1],
            reached=np.array([run[i][0].reached for run in runs]),
            motion=tuple(made.motion for run in runs if (made := run[i][0]).motion is not None),
        )
        for i, maker in enumerate(chosen)
    )


def _alike(embeddings: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How alike all learners see the test examples."""
    table = compare(embeddings, embeddings, measures=MEASURES)
    return {name: np.asarray(table.matrix(name), float) for name in MEASURES}


def _check_numbers(view_noise: float, num_seeds: int, margin: float) -> None:
    for name, value in (("view_noise", view_noise), ("margin", margin)):
        if not 0 < value < float("inf"):
            raise BadArrayError(f"advise needs {name} > 0, got {value!r}.")
    if num_seeds < 3:
        raise BadArrayError(f"advise needs three seeds or more for an interval, got {num_seeds}.")


def _checked(data: ArrayLike, labels: ArrayLike | None) -> tuple[np.ndarray, np.ndarray | None]:
    x = np.asarray(data, np.float64)
    if x.ndim < 2 or len(x) < _FEWEST:
        raise BadArrayError(
            f"advise needs {_FEWEST} examples or more, one a row, got an array {x.shape}. Take more examples."
        )
    x = x.reshape(len(x), -1)
    if not np.isfinite(x).all():
        row = int((~np.isfinite(x).all(1)).argmax())
        raise BadArrayError(f"advise needs finite examples, but row {row} holds NaN or infinity. Leave it out.")
    if len(np.unique(x, axis=0)) < len(x) // 2:
        raise BadArrayError(
            f"advise needs examples that differ, but over half of {len(x)} rows are copies. Remove them."
        )
    if labels is None:
        return x, None
    classes = np.asarray(labels)
    if classes.shape != (len(x),):
        raise BadArrayError(f"advise needs one label for each of {len(x)} examples, got labels {classes.shape}.")
    names = np.unique(classes)
    if not 2 <= len(names) <= len(x) // 3:
        raise BadArrayError(
            f"advise needs two classes or more, of three examples on average, got {len(names)} classes of {len(x)} "
            "examples. Leave the labels out to judge by views alone."
        )
    return x, classes


def _sizes(n: int, num_train: int, num_test: int, recipe: Recipe) -> tuple[int, int]:
    if num_train < 2 or num_test < 2:
        raise BadArrayError(f"advise needs num_train and num_test of at least 2, got {num_train} and {num_test}.")
    found = min(num_train, n - n // 3), min(num_test, n // 3)
    if recipe.num_components >= found[0]:
        raise BadArrayError(
            f"advise needs more training examples than components, got {found[0]} and {recipe.num_components}. Take "
            "fewer components (Recipe(num_components=...), --components) or more examples."
        )
    return found


def _views(
    views: ArrayLike | ViewMaker | None, x: np.ndarray, shape: tuple[int, ...], view_noise: float
) -> tuple[ViewMaker | None, np.ndarray | None]:
    """A way to draw views of flat examples, or the one other view of each."""
    if views is None:
        noise = view_noise * np.sqrt(np.square(x - x.mean(0)).sum(1).mean() / x.shape[1])
        return lambda key, rows: rows + noise * np.asarray(jax.random.normal(key, rows.shape)), None
    if callable(views):
        return lambda key, rows: _drawn(views(key, rows.reshape(-1, *shape[1:])), rows), None
    return None, _drawn(views, x)


def _drawn(views: Any, x: np.ndarray) -> np.ndarray:
    found = np.asarray(views, np.float64)
    if found.size != x.size or len(found) != len(x):
        raise BadArrayError(f"advise needs another view of each of {x.shape} examples, got views {found.shape}.")
    found = found.reshape(x.shape)
    if not np.isfinite(found).all():
        raise BadArrayError("advise needs finite views, got NaN or infinity.")
    if np.array_equal(found, x):
        raise BadArrayError("advise needs views that differ from their examples, got the examples themselves.")
    return found


def _told_views(views: Any, view_noise: float) -> dict[str, Any]:
    if views is None:
        return {"views": "noise", "view_noise": view_noise}
    return {"views": "drawn by a function" if callable(views) else "given, one of each example"}


def _split(
    key: jax.Array, x: np.ndarray, other: np.ndarray | None, rows: np.ndarray, num_train: int, draw: ViewMaker | None
) -> Split:
    """Centered and scaled to norms near 1 by the training examples, with a constant feature for the biases."""
    train, test = x[rows[:num_train]], x[rows[num_train:]]
    if draw is None:
        assert other is not None
        drawn, test_view = other[rows[:num_train], None], other[rows[num_train:]]
    else:
        key_test, *keys = jax.random.split(key, _NUM_VIEWS + 1)
        drawn, test_view = np.stack([draw(one, train) for one in keys], axis=1), draw(key_test, test)
    mean = train.mean(0)
    scale = np.sqrt(np.square(train - mean).sum(1).mean())

    def prepared(side: np.ndarray) -> np.ndarray:
        scaled = np.concatenate([(side - mean) / scale, np.ones((*side.shape[:-1], 1))], axis=-1)
        return (scaled / np.sqrt(2.0)).astype(np.float32)

    return Split(prepared(train), prepared(drawn), prepared(test), prepared(test_view))
