"""What does it cost to train on fewer examples? Trains anew on what each way to select keeps, at several shares."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from repsim_jax.errors import BadArrayError, MissingPackageError
from repsim_jax.influence.curation.coresets import Method, Preference, coreset
from repsim_jax.influence.curation.densities import Rows, Values
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.scores import Kept


class Arm(NamedTuple):
    """One way to select.

    Attributes:
        name: Of the way.
        method: As in ``coreset``.
        prefer: As in ``coreset``.
    """

    name: str
    method: Method
    prefer: Preference = "hard"


ARMS = (
    Arm("random", "random"), Arm("sas", "sas"), Arm("prototypes, keep easy", "prototypes", "easy"),
    Arm("prototypes, keep hard", "prototypes"), Arm("semdedup, keep easy", "semdedup", "easy"),
    Arm("semdedup, keep hard", "semdedup"), Arm("balanced", "balanced"),
    Arm("influence, drop the highest", "influence", "easy"), Arm("influence, drop the lowest", "influence"),
)  # fmt: skip


class PruningCurve(NamedTuple):
    """Scores of models that were trained on less.

    Attributes:
        names: Of the ways to select.
        drops: (d,) shares of the examples that were dropped.
        scores: (k, d, r) of each way, share and training.
        whole: (r,) of trainings on all examples.
    """

    names: tuple[str, ...]
    drops: np.ndarray
    scores: np.ndarray
    whole: np.ndarray


def pruning_curve(
    key: jax.Array,
    keys_training: Shaped[jax.Array, " r"] | Sequence[jax.Array],
    x: Rows,
    retrain: Callable[[jax.Array, Int[np.ndarray, " m"]], float],
    *,
    drops: Sequence[float] = (0.1, 0.3, 0.5),
    arms: Sequence[Arm] = ARMS,
    self_influence: Values | None = None,
    redundant: Int[np.ndarray, " r"] | None = None,
    kept: Kept | None = None,
    on_progress: Told | None = None,
) -> PruningCurve:
    """Trains anew on what each way to select keeps.

    Args:
        key: Random key of the selections.
        keys_training: One for each training on each selection; the same for all, so that ways are compared in pairs.
        x: Representations of the examples, from which is selected.
        retrain: ``retrain(key, rows)`` trains on some of the examples, and says how good the model has become.
        drops: Shares that are dropped, in (0, 1).
        arms: Ways to select.
        self_influence: As in ``coreset``; needed by "influence".
        redundant: As in ``coreset``.
        kept: Keeps each score, so that an interrupted run goes on: ``stored.Shards``.
        on_progress: Called as ``on_progress(done, all)`` between selections.

    Returns:
        The scores.

    Raises:
        BadArrayError: If a share is out of range, or as ``coreset``.
        UnknownNameError: As ``coreset``.
    """
    if not len(drops) or not all(0 < one < 1 for one in drops):
        raise BadArrayError(f"pruning_curve drops shares in (0, 1), got {list(drops)}.")
    keys, remember = list(keys_training), kept or (lambda _, compute: compute())

    def scored(name: str, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, " r"]:
        found = remember(name, lambda: {"scores": np.asarray([retrain(one, rows) for one in keys], float)})
        return found["scores"]

    count, done = len(arms) * len(drops) + 1, 1
    whole = scored("curve-whole", np.arange(len(x)))
    scores = np.zeros((len(arms), len(drops), len(keys)))
    for i, arm in enumerate(arms):
        for j, drop in enumerate(drops):
            options: dict[str, Any] = {"method": arm.method, "prefer": arm.prefer, "keep": 1 - drop}
            rows = coreset(key, x, **options, self_influence=self_influence, redundant=redundant).kept
            scores[i, j] = scored(f"curve-{i}-{j}", rows)
            done += 1
            if on_progress is not None:
                on_progress(done, count)
    return PruningCurve(tuple(arm.name for arm in arms), np.asarray(drops), scores, whole)


def probe_accuracy(x: Rows, labels: Any, x_test: Rows, labels_test: Any) -> float:
    """How well a linear probe on representations names classes.

    Args:
        x: Representations that it is fitted to.
        labels: (n,) their classes.
        x_test: Representations that it is judged by.
        labels_test: (m,) their classes.

    Returns:
        Share of the latter that are named rightly.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
        BadArrayError: If there are fewer than two classes, or labels do not belong to rows.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingPackageError.of("scikit-learn", "to fit a linear probe", "digits") from error
    rows, rows_test, labels = np.asarray(x), np.asarray(x_test), np.asarray(labels)
    if len(np.unique(labels)) < 2 or len(labels) != len(rows) or len(np.asarray(labels_test)) != len(rows_test):
        raise BadArrayError(
            f"a probe needs one label for each row and two classes: got {len(labels)} labels of "
            f"{len(np.unique(labels))} classes for {len(rows)} rows."
        )
    middle, spread = rows.mean(0), rows.std(0) + 1e-6
    probe = LogisticRegression(max_iter=2000).fit((rows - middle) / spread, labels)
    return float(probe.score((rows_test - middle) / spread, labels_test))


def views_found(first: Rows, second: Rows) -> float:
    """How well a model tells examples apart under augmentation: a score without labels.

    Args:
        first: Representations (n, d) of one view of each example.
        second: Of another view of each.

    Returns:
        Share of the first views whose nearest second view, by cosine, is of the same example.
    """
    unit = [np.asarray(rows) / np.linalg.norm(np.asarray(rows), axis=1, keepdims=True) for rows in (first, second)]
    return float(((unit[0] @ unit[1].T).argmax(1) == np.arange(len(unit[0]))).mean())
