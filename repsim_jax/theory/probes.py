"""How good are embeddings of examples that no learner has seen? By labels where there are any, and by other views."""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from repsim_jax.errors import BadArrayError

# Ridges that are tried, relative to the largest variance of the embeddings.
_RIDGES = np.logspace(-6, 1, 15)
_TEMPERATURE = 2.0


class Metric(NamedTuple):
    """A number that tells how good embeddings are.

    Attributes:
        title: For tables.
        unit: What its axis says, with its direction.
        needs_labels: Whether it can be had without labels.
        larger_is_better: Direction.
    """

    title: str
    unit: str
    needs_labels: bool
    larger_is_better: bool = True


METRICS = {
    "probe": Metric("ridge-probe accuracy", "test examples that a ridge probe classifies rightly", True),
    "nearest": Metric("nearest-neighbor accuracy", "test examples whose nearest training one is of their class", True),
    "retrieval": Metric("retrieval@1", "test views that find their own example among all", False),
    "alignment": Metric("alignment", "mean squared distance of views, unit vectors", False, larger_is_better=False),
    "spread": Metric("spread", "minus the log mean potential exp(-2 d²) of test pairs, unit vectors", False),
}  # fmt: skip


class Embedded(NamedTuple):
    """What a learner makes of one split.

    Attributes:
        train: (n, k) training examples.
        test: (m, k) examples that it has not seen.
        test_view: (m, k) another view of each of those.
    """

    train: np.ndarray
    test: np.ndarray
    test_view: np.ndarray


def scores(embedded: Embedded, labels: np.ndarray | None, test_labels: np.ndarray | None) -> dict[str, float]:
    r"""All metrics of one learner on one split; cosines are of vectors centered by the training mean.

    Alignment is :math:`E \|z - z^+\|^2`, spread :math:`-\log E \exp(-2 \|z_i - z_j\|^2)` over pairs of examples.

    Args:
        embedded: Of the learner.
        labels: (n,) classes of the training examples, or None.
        test_labels: (m,) classes of the test examples, or None.

    Returns:
        A value for each name of ``METRICS`` that can be had.

    Source:
        Alignment and uniformity (minus which is spread): Wang and Isola 2020, arXiv 2005.10242.
    """
    mean = embedded.train.mean(0)
    z, test, view = (_units(side - mean) for side in embedded)
    among = np.exp(-_TEMPERATURE * np.clip(2.0 - 2.0 * test @ test.T, 0.0, None))
    found = {
        "retrieval": float(((view @ test.T).argmax(1) == np.arange(len(test))).mean()),
        "alignment": float(np.square(test - view).sum(1).mean()),
        "spread": float(-np.log((among.sum() - np.trace(among)) / (len(test) * (len(test) - 1)))),
    }
    if labels is None or test_labels is None:
        return found
    guessed = ridge_probe(embedded.train, labels, embedded.test)
    return {
        "probe": float((guessed == test_labels).mean()),
        "nearest": float((labels[(test @ z.T).argmax(1)] == test_labels).mean()),
        **found,
    }


def ridge_probe(x: Float[ArrayLike, "n k"], labels: ArrayLike, x_new: Float[ArrayLike, "m k"]) -> np.ndarray:
    r"""Classes of new embeddings by a linear map, :math:`\min_B \|Y - X B\|^2 + \lambda \|B\|^2` on one-hot Y.

    X and Y are centered; :math:`\lambda` is chosen by generalized cross-validation on the training embeddings alone.

    Args:
        x: Training embeddings.
        labels: (n,) classes, two or more.
        x_new: Embeddings to classify.

    Returns:
        (m,) classes.

    Raises:
        BadArrayError: If there is one class only, or nothing varies.

    Source:
        Golub, Heath and Wahba 1979, doi 10.1080/00401706.1979.10489751.
    """
    z, targets = np.asarray(x, float), np.asarray(labels)
    classes, places = np.unique(targets, return_inverse=True)
    if len(classes) < 2:
        raise BadArrayError(f"ridge_probe needs two classes or more, got {len(classes)}.")
    y = np.eye(len(classes))[places]
    mean, y_mean = z.mean(0), y.mean(0)
    u, s, v = np.linalg.svd(z - mean, full_matrices=False)
    if not s[0] > 0:
        raise BadArrayError("ridge_probe needs embeddings that vary, got equal rows.")
    projected = u.T @ (y - y_mean)
    outside = np.square(y - y_mean).sum() - np.square(projected).sum()

    def risk(ridge: float) -> float:
        left = ridge / (s**2 + ridge)
        residual = np.square(left[:, None] * projected).sum() + outside
        # The mean takes one degree of freedom.
        return float(residual / (len(z) - 1 - (1.0 - left).sum()) ** 2) if len(z) - 1 > len(s) - left.sum() else np.inf

    ridge = min(_RIDGES * s[0] ** 2, key=risk)
    weights = v.T @ ((s / (s**2 + ridge))[:, None] * projected)
    return classes[((np.asarray(x_new, float) - mean) @ weights + y_mean).argmax(1)]


def _units(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(float).tiny)
