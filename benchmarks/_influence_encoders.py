"""Small self-supervised encoders of CIFAR-10, for benchmarks of influence that plant something among the images."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax import influence as inf

NETWORK = inf.Network((32, 32, 3), kind="convnet", widths=(16, 32, 64), num_features=64, hidden=128, projector=(64, 32))
RECIPE = inf.Recipe(num_steps=500, batch_size=128, learning_rate=2e-3)
NUM_VIEWS = 4
# Images that the objective sees together when influence is taken: the batch mode's time grows with it.
BATCH_SIZE = 32
_LOSS_BATCH = 128
FILE = "cifar10_train_first4000_lossless.npz"


def cifar10(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first 4,000 training images, exact pixels.

    Args:
        data: Folder that holds ``cifar10_train_first4000_lossless.npz``.

    Returns:
        Images (4000, 32, 32, 3) in [-1/2, 1/2], and labels.
    """
    from PIL import Image

    with np.load(data / FILE) as file:
        pixels = np.asarray(Image.open(io.BytesIO(file["png"].tobytes()))).reshape(-1, 32, 32, 3)
        return (pixels / 255 - 0.5).astype(np.float32), np.asarray(file["y"])


class Scored(NamedTuple):
    """What an encoder says of its training images.

    Attributes:
        representations: (n, d).
        batch: Self-influence of ``mode="batch"``.
        paper: Self-influence of ``mode="paper"``.
        stability: Mean distance of views.
        loss: The training loss of each image, within batches of others.
        facts: Of the training.
    """

    representations: np.ndarray
    batch: np.ndarray
    paper: np.ndarray
    stability: np.ndarray
    loss: np.ndarray
    facts: dict[str, Any]


def scored(key: jax.Array, x: np.ndarray, objective: str, folder: Path, steps: int) -> Scored:
    """Trains an encoder on images, or reads it where it was trained before, and scores each of them.

    Args:
        key: Random key.
        x: Images.
        objective: Name of the objective.
        folder: Where the training is kept.
        steps: Updates.

    Returns:
        Scores by the default curvature and damping.
    """
    key_train, key_views, key_fit = jax.random.split(key, 3)
    augment, recipe = inf.ImageViews(), replace(RECIPE, num_steps=steps)
    options = {"network": NETWORK, "objective": objective, "recipe": recipe, "folder": folder}
    found = inf.pretrain(key_train, x, augment, **options)
    train = inf.augmented(key_views, x, augment, num_views=NUM_VIEWS)
    posed = inf.problem_of(found, NETWORK, train, objective, batch_size=BATCH_SIZE)
    curvature = inf.ekfac(key_fit, posed)
    own = {
        mode: inf.self_influence(key_fit, posed, curvature=curvature, mode=mode, view_groups=0)
        for mode in ("batch", "paper")
    }
    rows = [NETWORK.represent(found.params, jnp.asarray(part)) for part in np.array_split(x, -(-len(x) // 256))]
    facts = {
        "first_loss": float(found.losses[:20].mean()), "last_loss": float(found.losses[-20:].mean()),
        "effective_rank": found.effective_rank,
    }  # fmt: skip
    return Scored(
        np.concatenate(rows), own["batch"].values, own["paper"].values, own["batch"].measurements,
        losses_of(key_fit, found, x, objective), facts,
    )  # fmt: skip


def losses_of(key: jax.Array, found: inf.Pretrained, x: np.ndarray, objective: str, *, rounds: int = 4) -> np.ndarray:
    """NT-Xent of each image, both views as anchors, among the images of random batches; the mean of some rounds.

    Args:
        key: Random key; draws batches and views.
        found: The encoder.
        x: Images.
        objective: Name of the objective; losses of single images exist for "simclr".
        rounds: Batches that each image is in.

    Returns:
        (n,) losses.
    """
    assert objective == "simclr"
    total = np.zeros(len(x))
    for key_round in jax.random.split(key, rounds):
        order = np.asarray(jax.random.permutation(key_round, len(x)))
        for number in range(-(-len(x) // _LOSS_BATCH)):
            rows = np.take(order, np.arange(number * _LOSS_BATCH, (number + 1) * _LOSS_BATCH), mode="wrap")
            values = np.asarray(_losses(jax.random.fold_in(key_round, number), found.params, jnp.asarray(x[rows])))
            count = min(_LOSS_BATCH, len(x) - number * _LOSS_BATCH)
            total[rows[:count]] += values[:count] / rounds
    return total


@jax.jit
def _losses(key: jax.Array, params: Any, x: jax.Array) -> jax.Array:
    keys = jax.random.split(key, (len(x), 2))
    views = jax.vmap(lambda pair, one: jax.vmap(inf.ImageViews(), (0, None))(pair, one))(keys, x)
    z = NETWORK.embed(params, views.reshape(-1, *x.shape[1:])).reshape(len(x), 2, -1)
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    both = jnp.concatenate([z[:, 0], z[:, 1]])
    logits = both @ both.T / 0.5 - 1e9 * jnp.eye(len(both))
    positives = jnp.tile((z[:, 0] * z[:, 1]).sum(-1) / 0.5, 2)
    return (jax.nn.logsumexp(logits, axis=1) - positives).reshape(2, -1).mean(0)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a planted image scores higher than another.

    Args:
        scores: (n,).
        positive: (n,) booleans.

    Returns:
        In [0, 1].
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))
