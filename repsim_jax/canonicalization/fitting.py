"""Which pose do these images have? Trains a canonicalizer on images alone; labels and the model may join in."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from repsim_jax.canonicalization.canonicalizers import Canonicalizer, checked, untrained, weighted_orbit
from repsim_jax.canonicalization.energies import Apply, Reference
from repsim_jax.canonicalization.groups import Group
from repsim_jax.canonicalization.keeping import RoundKeeper
from repsim_jax.canonicalization.objectives import (
    Objective,
    artifact_loss,
    cosine_contrast,
    dot_contrast,
    entropy_loss,
    prior_loss,
)
from repsim_jax.canonicalization.planar import applied, moves_pixels, unmoved
from repsim_jax.canonicalization.synchronizing import synchronized
from repsim_jax.canonicalization.views import Views
from repsim_jax.errors import BadArrayError
from repsim_jax.kernels.models import as_model
from repsim_jax.resumable import fingerprint, resumable
from repsim_jax.training import train

# Images that are canonicalized at once, to realign them and to judge the result.
_BATCH = 256


@dataclass(frozen=True)
class Recipe:
    """How the network is trained: by Adam, at a rate that falls to zero along a cosine.

    Attributes:
        num_steps: Updates of each round.
        batch_size: Images of an update; fewer where there are fewer.
        learning_rate: The first.
        num_rounds: Of bootstrapping, for images that are not upright. Before each round but the first the images are
            realigned by what was learned so far, and are upright for the next.
        num_neighbors: For images that are not upright: before the first round they are brought into line with so many
            nearest others by ``synchronized``, and are upright for it too; 0 leaves them as they are.
        widths: Channels of the network's convolutions.
        num_outputs: Size of its vectors.
        learns_vector: Whether the reference vector is trained too.

    Source:
        Rounds: Schmidt and Stober 2025, arXiv 2510.08178.
    """

    num_steps: int = 500
    batch_size: int = 128
    learning_rate: float = 2e-3
    num_rounds: int = 1
    num_neighbors: int = 0
    widths: tuple[int, ...] = (16, 16, 16)
    num_outputs: int = 128
    learns_vector: bool = False

    def __post_init__(self) -> None:
        counts = (self.num_steps, self.batch_size, self.num_rounds, self.num_outputs)
        is_whole = all(type(count) is int for count in (*counts, self.num_neighbors))
        if not is_whole or min(*counts, self.num_neighbors + 1) < 1 or not 0 < self.learning_rate < float("inf"):
            raise BadArrayError(
                "Recipe needs whole num_steps, batch_size, num_rounds and num_outputs >= 1, num_neighbors >= 0, and a "
                f"rate > 0: {self}."
            )


class Fitted(NamedTuple):
    """A trained canonicalizer, and what says how far to trust it.

    Attributes:
        canonicalizer: It.
        losses: (num_rounds * num_steps,), the loss of each step before its update.
        identity_rate: Share of the training images, after the last realignment, that it leaves as they are: near 1
            where they were upright, near one over the group's order where they were in any pose and it learned nothing.
        median_margin: Of the training images.
    """

    canonicalizer: Canonicalizer
    losses: np.ndarray
    identity_rate: float
    median_margin: float


def fit(
    key: jax.Array,
    images: Float[Array, "n h w c"] | np.ndarray,
    group: Group,
    *,
    objective: Objective = Objective(),  # noqa: B008 (frozen)
    recipe: Recipe = Recipe(),
    views: Views = Views(),  # noqa: B008
    model: Any = None,
    params: Any = None,
    labels: Any = None,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Trains the paper's energy on images, without labels.

    Args:
        key: Random key; draws the network, the reference vector and the batches.
        images: Floating-point images, upright unless the objective says otherwise.
        group: Of the plane.
        objective: What it is trained for: ``OURS``, ``PAPER``, ``UNALIGNED`` or your weights.
        recipe: How.
        views: What the network sees.
        model: The classifier that will be wrapped, which stays as it is, where the objective has a task; as in
            ``energies.reference``, to logits.
        params: Of the model.
        labels: (n,) classes.
        folder: Where the training is kept, so that it goes on after an interruption, with the same result to the last
            bit. One folder belongs to one training.
        on_progress: Called as ``on_progress(done, all)`` with counts of steps.

    Returns:
        The canonicalizer and how it went.

    Raises:
        BadArrayError: If images are not finite, not floating-point or none, a task lacks its model or labels, or the
            views' ``compat`` has no such group or objective.
        DivergedError: If a loss is not finite.
        StoreMismatchError: If the folder belongs to another training.
    """
    if np.ndim(images) != 4:
        raise BadArrayError(f"fit needs images (n, height, width, channels), got shape {np.shape(images)}.")
    _, height, width, channels = images.shape
    shape = (height, width, channels)
    start = untrained(key, shape, group, views=views, widths=recipe.widths, num_outputs=recipe.num_outputs)
    images = checked(start, images)
    objective.prior_of(group)
    if views.compat is not None and (objective.task_weight or objective.artifact_weight):
        raise BadArrayError(
            f"compat={views.compat!r} has no gradient through angles and no turns there and back: fit with "
            "task_weight=0 and artifact_weight=0, such as PAPER, or without compat."
        )
    task = _task(objective, model, params, labels, len(images))
    facts = _facts(key, start, images, objective, recipe, task)
    with nullcontext() if folder is None else resumable(folder, facts):
        return _rounds(key, _Parts(start, task), images, objective, recipe, folder, on_progress)


def _facts(
    key: jax.Array, start: Canonicalizer, images: jax.Array, objective: Objective, recipe: Recipe, task: "_Task | None"
) -> dict[str, Any]:
    """What a kept training is known by."""
    return {
        "format": "repsim_jax canonicalization", "key": np.asarray(jax.random.key_data(key)).tolist(),
        "group": start.group.name, "views": repr(start.views), "data_sha256": fingerprint(images),
        "objective": repr(objective), "recipe": repr(recipe),
        "task_sha256": "" if task is None else fingerprint((task.params, task.rest, task.labels)),
    }  # fmt: skip


def _rounds(
    key: jax.Array, parts: "_Parts", images: jax.Array, objective: Objective, recipe: Recipe, folder: Path | None,
    on_progress: Any,
) -> Fitted:  # fmt: skip
    losses, aligned = [], images if not recipe.num_neighbors else _in_line(parts.canonicalizer.group, images, recipe)
    for number in range(recipe.num_rounds):
        canonicalizer = parts.canonicalizer
        if number:
            aligned = jnp.concatenate([canonicalizer(part).canonical for part in _batches(images)])
        posed = _upright(objective) if number or recipe.num_neighbors else objective
        keeper = RoundKeeper(folder, number)
        parts, found = _round(jax.random.fold_in(key, number), parts, aligned, posed, recipe, keeper, on_progress)
        losses.append(found)
    return _fitted(parts.canonicalizer, np.concatenate(losses), aligned)


def _in_line(group: Group, images: jax.Array, recipe: Recipe) -> jax.Array:
    places = synchronized(group, images, num_neighbors=recipe.num_neighbors)
    parts = zip(_batches(jnp.asarray(places)), _batches(images), strict=True)
    return jnp.concatenate([unmoved(group, group.elements(at, part.dtype), part) for at, part in parts])


def _batches(images: jax.Array) -> list[jax.Array]:
    return [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]


def _upright(objective: Objective) -> Objective:
    return replace(objective, prior_weight=objective.prior_weight or 1.0, prior=None, entropy_weight=0.0)


class _Task(NamedTuple):
    apply: Apply
    params: Any
    rest: Any
    labels: jax.Array


class _Parts(NamedTuple):
    canonicalizer: Canonicalizer
    task: _Task | None


def _task(objective: Objective, model: Any, params: Any, labels: Any, n: int) -> _Task | None:
    if not objective.task_weight:
        return None
    given = None if labels is None else np.shape(labels)
    if model is None or given != (n,):
        raise BadArrayError(
            f"an objective with task_weight needs a model and labels ({n},); got model {type(model).__name__} and "
            f"labels of shape {given}. Or set task_weight=0."
        )
    parts = as_model(model, params)
    return _Task(parts.apply, parts.params, parts.rest, jnp.asarray(labels))


def _round(
    key: jax.Array,
    parts: _Parts,
    images: jax.Array,
    objective: Objective,
    recipe: Recipe,
    keeper: RoundKeeper,
    on_progress: Any,
) -> tuple[_Parts, np.ndarray]:
    canonicalizer, task = parts
    energy, steps = canonicalizer.energy, recipe.num_steps
    data = {"views": canonicalizer.views.reduced(images)}
    state = {"params": energy.params, "vector": energy.vector}
    if task is not None:
        data |= {"images": images, "labels": task.labels}
        state |= {"model": task.params}
    rest = None if task is None else _Rest(task.apply, task.rest)
    loss = _Loss(energy.apply, canonicalizer.group, canonicalizer.views, objective, recipe.learns_vector, rest)
    before, total = keeper.number * steps, recipe.num_rounds * steps
    told = None if on_progress is None else lambda done, _: on_progress(before + done, total)
    trained = train(
        key, state, loss, data, optimizer=_optimizer(recipe), num_steps=steps, noisy=True, on_progress=told,
        batch_size=min(recipe.batch_size, len(images)), keeper=keeper,
    )  # fmt: skip
    losses = np.asarray(trained.losses)
    better = replace(energy, params=trained.params["params"], vector=trained.params["vector"])
    return _Parts(replace(canonicalizer, energy=better), task), losses


def _fitted(canonicalizer: Canonicalizer, losses: np.ndarray, images: jax.Array) -> Fitted:
    found = [canonicalizer(part) for part in _batches(images)]
    index = np.concatenate([np.asarray(one.elements.index) for one in found])
    margins = np.concatenate([np.asarray(one.margin) for one in found])
    return Fitted(canonicalizer, losses, float((index == 0).mean()), float(np.median(margins)))


@lru_cache(maxsize=16)
def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(recipe.learning_rate, recipe.num_steps))


@dataclass(frozen=True, eq=False)
class _Rest:
    """A model and what of its state is no parameter."""

    apply: Apply
    rest: Any


@dataclass(frozen=True)
class _Loss:
    """The loss of a batch; equal ones are compiled once."""

    apply: Apply
    group: Group
    views: Views
    objective: Objective
    learns_vector: bool
    task: _Rest | None = field(default=None)

    def __call__(self, key: jax.Array, state: Any, batch: dict[str, jax.Array]) -> Float[Array, ""]:
        objective = self.objective
        vector = state["vector"] if self.learns_vector else jax.lax.stop_gradient(state["vector"])
        energy = Reference(self.apply, state["params"], (), vector)
        key_poses, key = jax.random.split(key)
        poses, shown = self._posed(key_poses, batch["views"])
        views = self.views.orbit(self.group, shown)
        flat = views.reshape(-1, *views.shape[2:])
        vectors = energy.vectors(flat)
        posed = vectors.reshape(self.group.order, len(shown), -1)
        energies = as_before(self.group, poses, energy.of_vectors(posed).T)
        total = jnp.zeros((), energies.dtype)
        if objective.prior_weight:
            prior = objective.prior_of(self.group)
            total += objective.prior_weight * prior_loss(energies, prior, objective.temperature)
        if objective.contrast_weight:
            contrast = cosine_contrast if objective.contrast == "cosine" else dot_contrast
            total += objective.contrast_weight * contrast(posed)
        if objective.entropy_weight:
            total += objective.entropy_weight * entropy_loss(energies, objective.temperature)
        if objective.artifact_weight:
            again = energy.vectors(self._there_and_back(key, flat))
            total += objective.artifact_weight * artifact_loss(vectors, again)
        if self.task is not None:
            total += objective.task_weight * self._of_task(state, batch, energies)
        return total

    def _posed(self, key: jax.Array, views: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Each image in a pose of its own, and the poses."""
        if not self.objective.random_poses or moves_pixels(self.group) or not self.group.is_closed:
            return jnp.zeros(len(views), jnp.int32), views
        poses = jax.random.randint(key, (len(views),), 0, self.group.order)
        return poses, applied(self.group, self.group.elements(poses, views.dtype), views)

    def _there_and_back(self, key: jax.Array, flat: jax.Array) -> jax.Array:
        elements = self.group.elements(jax.random.randint(key, (len(flat),), 0, self.group.order), flat.dtype)
        return unmoved(self.group, elements, applied(self.group, elements, flat))

    def _of_task(self, state: Any, batch: dict[str, jax.Array], energies: jax.Array) -> jax.Array:
        assert self.task is not None
        images = straight_through(self.group, batch["images"], energies, self.objective.temperature)
        logits = self.task.apply(jax.lax.stop_gradient(state["model"]), self.task.rest, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()


def as_before(group: Group, poses: Int[Array, " b"], energies: Float[Array, "b g"]) -> Float[Array, "b g"]:
    r"""The energies of inputs, from those of the same inputs in other poses: of :math:`g` that of :math:`h g`.

    Args:
        group: Closed.
        poses: Places of the elements h that were applied.
        energies: Of the inputs h x.

    Returns:
        Those of x, up to interpolation.
    """
    return jnp.take_along_axis(energies, jnp.asarray(group.table)[poses], axis=1)


def straight_through(
    group: Group, x: Float[Array, "b h w c"], energies: Float[Array, "b g"], temperature: float | Float[Array, ""]
) -> Float[Array, "b h w c"]:
    r"""Canonical forms with the gradient of the mean pose, :math:`\sum_g \mathrm{softmax}(-E / \tau)_g\, g^{-1} x`.

    Args:
        group: Of the plane.
        x: Images.
        energies: Of all elements, with a gradient.
        temperature: > 0.

    Returns:
        What a canonicalizer gives, to the last bit.

    Differs:
        The paper's code passes the gradient through the angle, of which elements are the multiples.
    """
    hard = unmoved(group, group.elements(energies.argmin(-1), x.dtype), x)
    soft = weighted_orbit(group, x, jax.nn.softmax(-energies / temperature, axis=-1))
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))
