"""Which representation do the data alone teach? A small self-supervised trainer, for those who bring no model.

It trains a ``Network`` on fresh views at each step by one of the objectives of this package, goes on where it was
killed, and keeps models on the way, over which influence can be averaged.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError, CollapseWarning, DivergedError, RepsimError, UnknownNameError
from repsim_jax.influence.examples import Augment, Examples
from repsim_jax.influence.networks import Network
from repsim_jax.influence.objectives import (
    BYOL,
    BarlowTwins,
    Objective,
    SimCLR,
    SimSiam,
    SpectralContrastive,
    VICReg,
)
from repsim_jax.influence.problems import Problem, problem
from repsim_jax.influence.recipes import Recipe, optimizer_of
from repsim_jax.kernels.change import ranks_of
from repsim_jax.linalg import center, precise_jit
from repsim_jax.resumable import fingerprint, read_tree, resumable, write_tree
from repsim_jax.training import Standing, Trained, train

OBJECTIVES = ("simclr", "byol", "barlow-twins", "vicreg", "simsiam", "spectral")
STATE_FILE = "state.npz"
# Steps between two times at which the state goes to the disk, and on which a loss that is not finite is noticed.
_CHUNK = 50
# A representation of fewer directions than this has collapsed to a line or a point.
_COLLAPSED_RANK = 2.0
# Examples of which the representation's rank is taken, and whose loss says whether a kept run is of the same model.
_PROBED = 512


class Checkpoint(NamedTuple):
    """A model on the way.

    Attributes:
        step: Updates before it.
        params: As in ``Pretrained``.
        target_params: As in ``Pretrained``.
    """

    step: int
    params: Any
    target_params: Any


class Pretrained(NamedTuple):
    """What pretraining gives.

    Attributes:
        params: Of the "encoder", and of the "projector" and "predictor" where the network has them.
        target_params: BYOL's slowly moving copy; None for other objectives.
        losses: (num_steps,), the loss of each step before its update.
        checkpoints: Models on the way, evenly spaced; the last one is the result.
        effective_rank: Of the representation: how many directions it uses, by the entropy of its spectrum.
    """

    params: Any
    target_params: Any
    losses: np.ndarray
    checkpoints: tuple[Checkpoint, ...]
    effective_rank: float


def pretrain(
    key: jax.Array,
    x: Any,
    augment: Augment,
    *,
    network: Network,
    objective: str | Objective = "simclr",
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    num_checkpoints: int = 1,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pretrained:
    """Trains an encoder without labels.

    Args:
        key: Random key; draws parameters, batches, and two new views of each example at every step.
        x: Examples (n, ...), floating-point numbers.
        augment: ``augment(key, x)`` gives one view of one example, such as ``DigitViews()`` or ``ImageViews()``.
        network: Shape of the network.
        objective: "simclr", "byol", "barlow-twins", "vicreg", "simsiam", "spectral", or an objective of this package.
        recipe: How it is trained.
        num_checkpoints: How many models are kept, the last one included.
        folder: Where the training is kept, so that it goes on after an interruption, with the same result to the last
            bit. One folder belongs to one training.
        on_progress: Called as ``on_progress(done, num_steps)`` between compiled runs of steps.

    Returns:
        The model, its losses, and models on the way.

    Raises:
        BadArrayError: If examples are not finite, not floating-point numbers or too few, or the network takes others.
        DivergedError: If a loss or the model is NaN or infinite; the message says at which step.
        RepsimError: If the objective needs a predictor and the network has none.
        StoreMismatchError: If the folder belongs to another training.
        UnknownNameError: If there is no such objective.

    Warns:
        CollapseWarning: If the representation uses fewer than two directions.

    Source:
        The objectives name theirs; the schedule of BYOL's target is arXiv 2006.07733, section 3.2.
    """
    x = _checked(x, network, recipe)
    posed = objective if not isinstance(objective, str) else _objective(objective, network)
    key_init, key_train = jax.random.split(key)
    start = network.initial(key_init)
    loss = _Loss(network, posed, augment)
    target = _without_predictor(start) if isinstance(posed, BYOL) else {}
    params = {"online": start, "target": target}
    keep = _steps_to_keep(recipe.num_steps, num_checkpoints)
    run = _Run(key_train, params, loss, x, recipe, keep, on_progress)
    if folder is None:
        return _finished(run, *_trained(run, None))
    with resumable(Path(folder), _facts(key, run)):
        return _finished(run, *_trained(run, Path(folder)))


def _checked(x: Any, network: Network, recipe: Recipe) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise BadArrayError(f"pretrain needs floating-point examples, got {x.dtype}; scale images: x / 255 - 0.5.")
    if x.ndim < 2 or int(np.prod(x.shape[1:])) != int(np.prod(network.input_shape)):
        raise BadArrayError(f"the network takes examples (n, *{network.input_shape}), got {x.shape}.")
    if len(x) < recipe.batch_size:
        raise BadArrayError(
            f"pretrain needs at least batch_size examples: got {len(x)} for batch_size {recipe.batch_size}. "
            "Lower the batch size, or bring more examples."
        )
    bad = np.flatnonzero(~np.asarray(jnp.isfinite(x.reshape(len(x), -1)).all(1)))
    if bad.size:
        raise BadArrayError(f"pretrain: x holds NaN or infinity in {bad.size} rows, the first is {bad[0]}.")
    return x


def _objective(name: str, network: Network) -> Objective:
    if name not in OBJECTIVES:
        raise UnknownNameError.of("objective", str(name), OBJECTIVES)
    if name in ("byol", "simsiam") and not network.predictor:
        raise RepsimError(f"{name} needs a predictor: pass Network(..., predictor=(64,)), its hidden units.")
    made: dict[str, Callable[[], Objective]] = {
        "simclr": SimCLR,
        "byol": lambda: BYOL(predictor=network.predict),
        "barlow-twins": BarlowTwins,
        "vicreg": VICReg,
        "simsiam": lambda: SimSiam(network.predict),
        "spectral": SpectralContrastive,
    }
    return made[name]()


def _without_predictor(params: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in params.items() if name != "predictor"}


@dataclass(frozen=True)
class _Loss:
    """The loss of a batch of two fresh views of each example; equal ones are compiled once."""

    network: Network
    objective: Any
    augment: Augment

    def __call__(self, key: jax.Array, params: Any, batch: Float[Array, "b *shape"]) -> Float[Array, ""]:
        keys = jax.random.split(key, (len(batch), 2))
        views = jax.vmap(lambda pair, one: jax.vmap(self.augment, (0, None))(pair, one))(keys, batch)
        objective = self.objective
        if params["target"]:
            objective = replace(objective, target_params=params["target"])
        return objective.loss(self.network.embed, params["online"], views, jnp.ones(len(batch), batch.dtype))


def _steps_to_keep(num_steps: int, num_checkpoints: int) -> tuple[int, tuple[int, ...]]:
    """Steps in one compiled run, and after which the model is kept: ends of such runs, the last step included."""
    if not 1 <= num_checkpoints <= num_steps:
        raise BadArrayError(f"pretrain needs num_checkpoints in [1, num_steps={num_steps}], got {num_checkpoints}.")
    chunk = min(_CHUNK, max(1, num_steps // num_checkpoints))
    ends = [*range(chunk, num_steps, chunk), num_steps]
    wanted = np.linspace(0, num_steps, num_checkpoints + 1)[1:]
    return chunk, tuple(dict.fromkeys(min(ends, key=lambda end: abs(end - step)) for step in wanted))


class _Run(NamedTuple):
    """All that one training depends on."""

    key: jax.Array
    params: Any
    loss: _Loss
    x: jax.Array
    recipe: Recipe
    keep: tuple[int, tuple[int, ...]]
    on_progress: Callable[[int, int], None] | None


def _facts(key: jax.Array, run: _Run) -> dict[str, Any]:
    """What a kept run is known by; the loss stands for the augmentation and the network, which may be anyone's."""
    size = min(_PROBED, run.recipe.batch_size)
    loss = float(_probe(run.loss, run.params, run.x[:size]))
    return {
        "format": "repsim_jax pretraining",
        "version": 1,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "data_sha256": fingerprint(run.x),
        "network": repr(run.loss.network),
        "objective": repr(run.loss.objective),
        "augment": _named(run.loss.augment),
        "recipe": repr(run.recipe),
        "kept_steps": list(run.keep[1]),
        "first_loss": loss,
    }


def _named(function: Any) -> str:
    """A dataclass tells its options; of other functions nothing is known but the name and what they do."""
    return repr(function) if is_dataclass(function) else getattr(function, "__qualname__", type(function).__qualname__)


@precise_jit(static_argnames=("loss",))
def _probe_jitted(params: Any, x: jax.Array, *, loss: _Loss) -> Float[Array, ""]:
    return loss(jax.random.key(0), params, x)


def _probe(loss: _Loss, params: Any, x: jax.Array) -> Float[Array, ""]:
    return _probe_jitted(params, x, loss=loss)


class _Keeper:
    """Stops at a loss that is not finite, and keeps the state and the models on the way, in memory or in a folder."""

    def __init__(self, folder: Path | None, kept_steps: Sequence[int]):
        self.folder, self.kept_steps = folder, kept_steps
        self.models: dict[int, Any] = {}

    def resumed(self, fresh: Standing) -> Standing:
        if self.folder is None or not (self.folder / STATE_FILE).exists():
            return fresh
        standing = read_tree(self.folder / STATE_FILE, fresh._replace(done=np.zeros((), np.int64)))
        done = int(standing.done)
        for step in self.kept_steps:
            if step <= done:
                self.models[step] = read_tree(_model_file(self.folder, step), fresh.state[0])
        return standing._replace(done=done)

    def keep(self, standing: Standing) -> None:
        bad = np.flatnonzero(~np.isfinite(standing.losses))
        if bad.size or not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(standing.state[0])):
            what, step = ("loss", bad[0]) if bad.size else ("model", standing.done)
            raise DivergedError(
                f"the {what} is not finite at step {step} of pretraining. Lower the learning rate, or look for an "
                "augmentation that gives NaN or infinity."
            )
        if standing.done in self.kept_steps:
            self.models[standing.done] = standing.state[0]
            if self.folder is not None:
                write_tree(_model_file(self.folder, standing.done), standing.state[0])
        if self.folder is not None:
            write_tree(self.folder / STATE_FILE, standing._replace(done=np.int64(standing.done)))


def _model_file(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.npz"


def _trained(run: _Run, folder: Path | None) -> tuple[Trained, dict[int, Any]]:
    chunk, kept_steps = run.keep
    keeper = _Keeper(folder, kept_steps)
    trained = train(
        run.key, run.params, run.loss, run.x, optimizer=optimizer_of(run.recipe), num_steps=run.recipe.num_steps,
        batch_size=run.recipe.batch_size, noisy=True, on_progress=run.on_progress, keeper=keeper, chunk=chunk,
    )  # fmt: skip
    return trained, keeper.models


def _finished(run: _Run, trained: Trained, models: dict[int, Any]) -> Pretrained:
    checkpoints = tuple(
        Checkpoint(step, model["online"], model["target"] or None) for step, model in sorted(models.items())
    )
    last = checkpoints[-1]
    rank = _rank(last.params, run.x[:_PROBED], network=run.loss.network)
    if rank < _COLLAPSED_RANK:
        warnings.warn(
            f"the representation has collapsed: it uses {rank:.2f} directions. Influence is not defined for it; train "
            "with a lower rate, other augmentations, or an objective that repels (simclr, vicreg).",
            CollapseWarning,
            stacklevel=3,
        )
    return Pretrained(last.params, last.target_params, np.asarray(trained.losses), checkpoints, rank)


def _rank(params: Any, x: jax.Array, *, network: Network) -> float:
    return float(ranks_of(_spectrum(params, x, network=network)).entropy)


@precise_jit(static_argnames=("network",))
def _spectrum(params: Any, x: jax.Array, *, network: Network) -> Float[Array, " d"]:
    rows = center(network.represent(params, x))
    return jnp.square(jnp.linalg.svd(rows, compute_uv=False))


def objective_of(name: str | Objective, network: Network, pretrained: Pretrained | Checkpoint) -> Objective:
    """The objective as the finished model was trained for it: with the network's predictor, and BYOL's target.

    Args:
        name: As in ``pretrain``.
        network: As in ``pretrain``.
        pretrained: The model, or one on the way.

    Returns:
        The objective, for ``problem``.

    Raises:
        RepsimError: If it needs a predictor and the network has none.
        UnknownNameError: If there is no such objective.
    """
    objective = _objective(name, network) if isinstance(name, str) else name
    if isinstance(objective, BYOL):
        return replace(objective, target_params=pretrained.target_params)
    return objective


def problem_of(
    pretrained: Pretrained | Checkpoint,
    network: Network,
    train: Examples,
    objective: str | Objective,
    *,
    batch_size: int = 512,
) -> Problem:
    """Poses influence for a pretrained network: embeddings are trained on, and the encoder's output is measured.

    Args:
        pretrained: The model, or one on the way.
        network: As in ``pretrain``.
        train: The training examples, from ``augmented(key, x, augment)`` with the augmentation of training.
        objective: As in ``pretrain``.
        batch_size: As in ``problem``.

    Returns:
        The problem.

    Raises:
        BadArrayError: As ``problem``.
    """
    posed = objective_of(objective, network, pretrained)
    return problem(
        network.embed, pretrained.params, train, objective=posed, represent=network.represent, batch_size=batch_size
    )
