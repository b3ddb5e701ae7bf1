"""The images, classifiers and canonicalizers that canonicalization_images.py holds against each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from repsim_jax import canonicalization as canon
from repsim_jax.data import open_source
from repsim_jax.training import train

CIFAR = "cifar10_jpeg.parquet"


class Labeled(NamedTuple):
    """Images in [0, 1] and their classes.

    Attributes:
        x: (n, h, w, c).
        y: (n,).
    """

    x: np.ndarray
    y: np.ndarray


class Parts(NamedTuple):
    """What is learned from and what is tested on.

    Attributes:
        train: All of it upright.
        test: Never learned from.
    """

    train: Labeled
    test: Labeled


def digits(seed: int, num_train: int = 1300) -> Parts:
    """scikit-learn's digits, enlarged from 8 to 16 pixels.

    Args:
        seed: Draws the parts.
        num_train: Images to learn from; the rest of 1,797 are tested on.

    Returns:
        Both parts.
    """
    source = open_source("digits")
    small = np.stack([source.get(row) for row in range(len(source))]).astype(np.float32).reshape(-1, 8, 8, 1)
    x = np.asarray(jax.image.resize(jnp.asarray(small / small.max()), (len(small), 16, 16, 1), "linear"))
    order = np.random.default_rng(seed).permutation(len(x))
    first, rest = order[:num_train], order[num_train:]
    labels = np.asarray(source.labels, np.int32)
    return Parts(Labeled(x[first], labels[first]), Labeled(x[rest], labels[rest]))


def cifar(folder: Path, seed: int, num_train: int, num_test: int) -> Parts:
    """CIFAR-10 from its JPEG copies (quality 75, so not the exact pixels).

    Args:
        folder: Of the data.
        seed: Draws the images.
        num_train: Of the training split.
        num_test: Of the test split.

    Returns:
        Both parts.

    Raises:
        SystemExit: If the file is not there.
    """
    import pyarrow.parquet as pq

    if not (folder / CIFAR).exists():
        raise SystemExit(f"{CIFAR} is missing in the folder that --data names.")
    table = pq.read_table(folder / CIFAR, columns=["split", "label", "jpeg"])
    split, labels = np.asarray(table["split"].to_pylist()), np.asarray(table["label"], np.int32)
    rng = np.random.default_rng(seed)
    parts = []
    for name, num in (("train", num_train), ("test", num_test)):
        rows = rng.permutation(np.flatnonzero(split == name))[:num]
        encoded = table["jpeg"].take(rows).to_pylist()
        x = np.stack([np.asarray(Image.open(BytesIO(one)).convert("RGB")) for one in encoded])
        parts.append(Labeled(x.astype(np.float32) / 255, labels[rows]))
    return Parts(*parts)


@dataclass(frozen=True)
class Plan:
    """How large networks are and how long they are trained.

    Attributes:
        classifier: Widths of the classifier's convolutions, each of which halves its map down to 4 x 4.
        equivariant: Widths of the equivariant network.
        steps: Updates of the classifiers, 128 images each.
        equivariant_steps: Of the equivariant network, each of which costs many times as much.
        shift: Pixels by which their images are moved at random; where it is above 0 they are mirrored too.
        recipe: Of the canonicalizers.
    """

    classifier: tuple[int, ...]
    equivariant: tuple[int, ...]
    steps: int
    equivariant_steps: int
    shift: int = 0
    recipe: canon.Recipe = field(default=canon.Recipe())


@dataclass(frozen=True)
class _Loss:
    """Cross-entropy; equal ones are compiled once."""

    logits: Callable[[Any, jax.Array], jax.Array]
    group: canon.Group | None
    shift: int

    def __call__(self, key: jax.Array, params: Any, part: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, labels = part
        key_pose, key_move = jax.random.split(key)
        if self.shift:
            x = jax.vmap(partial(_moved, shift=self.shift))(jax.random.split(key_move, len(x)), x)
        if self.group is not None:
            which = jax.random.randint(key_pose, (len(x),), 0, self.group.order)
            x = canon.Images().act(self.group, self.group.elements(which, x.dtype), x)
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(params, x), labels).mean()


def _moved(key: jax.Array, x: jax.Array, *, shift: int) -> jax.Array:
    key_shift, key_mirror = jax.random.split(key)
    padded = jnp.pad(x, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
    cut = jax.lax.dynamic_slice(padded, (*jax.random.randint(key_shift, (2,), 0, 2 * shift + 1), 0), x.shape)
    return jnp.where(jax.random.bernoulli(key_mirror), cut[:, ::-1], cut)


@lru_cache(maxsize=8)
def _optimizer(steps: int) -> optax.GradientTransformation:
    return optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-3)


def classifier(key: jax.Array, part: Labeled, plan: Plan, *, rotated: canon.Group | None = None) -> Any:
    """A convolutional network, trained on upright images or on images in all poses of a group.

    Args:
        key: Random key.
        part: What it learns from.
        plan: How.
        rotated: The group.

    Returns:
        A function of images.
    """
    network = canon.ViewNetwork(part.x.shape[1:], plan.classifier, int(part.y.max()) + 1)
    loss = _Loss(partial(_logits, network), rotated, plan.shift)
    trained = _trained(key, network.initial(key), loss, part, plan.steps)
    return jax.jit(partial(_logits, network, trained))


def _logits(network: canon.ViewNetwork, params: Any, x: jax.Array) -> jax.Array:
    return network(params, (), x)


def equivariant_classifier(key: jax.Array, part: Labeled, plan: Plan, group: canon.Group) -> Any:
    """A network of lifting and group convolutions, whose mean over the group no pose changes.

    Args:
        key: Random key.
        part: What it learns from, upright.
        plan: How.
        group: Of the network.

    Returns:
        A function of images.
    """
    network = canon.LiftingNetwork(group, part.x.shape[-1], plan.equivariant, int(part.y.max()) + 1)
    trained = _trained(
        key, network.initial(key), _Loss(network.invariant, None, plan.shift), part, plan.equivariant_steps
    )
    return jax.jit(partial(network.invariant, trained))


def _trained(key: jax.Array, params: Any, loss: _Loss, part: Labeled, steps: int) -> Any:
    data = (part.x, part.y)
    return train(
        key, params, loss, data, optimizer=_optimizer(steps), num_steps=steps, batch_size=128, noisy=True
    ).params
