"""The one training loop: minibatches drawn by key, whole runs of steps in one compiled program."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

# Steps in one compiled program: progress is told between programs.
_CHUNK = 50


class Trained(NamedTuple):
    """What training gives.

    Attributes:
        params: Trained parameters.
        losses: (num_steps,), the loss of each step before its update.
    """

    params: Any
    losses: Float[Array, " num_steps"]


class Standing(NamedTuple):
    """Where a training stands between two compiled runs of steps.

    Attributes:
        done: Steps that were made.
        state: Parameters, and the optimizer's state.
        losses: (done,), the loss of each step before its update.
    """

    done: int
    state: tuple[Any, Any]
    losses: np.ndarray


class Keeper(Protocol):
    """Who keeps where a training stands, so that it can go on after an interruption."""

    def resumed(self, fresh: Standing) -> Standing:
        """Where to go on.

        Args:
            fresh: Where a new training starts.

        Returns:
            What was kept, or ``fresh``.
        """
        ...

    def keep(self, standing: Standing) -> None:
        """Keeps where the training stands; called between compiled runs of steps, and at the end.

        Args:
            standing: Parameters, state and losses.
        """
        ...


def train(
    key: jax.Array,
    params: PyTree,
    loss: Callable[..., jax.Array],
    data: PyTree,
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    batch_size: int,
    noisy: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    on_look: Callable[[int, PyTree], None] | None = None,
    keeper: Keeper | None = None,
    chunk: int = _CHUNK,
) -> Trained:
    """Minimizes a loss over random minibatches.

    Calls with the same ``loss`` and ``optimizer`` objects and the same shapes share one compiled program.

    Args:
        key: Random key; draws the minibatches, each without repetition.
        params: Parameters to start from, a pytree of arrays.
        loss: ``loss(params, batch)`` gives a scalar; where it is ``noisy``, ``loss(key, params, batch)`` does.
        data: A pytree of arrays with leading axis n.
        optimizer: From optax.
        num_steps: Number of updates.
        batch_size: Examples per update, at most n.
        noisy: Whether the loss draws too (masks, flips) and takes a new key at each step.
        on_progress: Called as ``on_progress(done, num_steps)`` between compiled runs of steps.
        on_look: Called as ``on_look(done, params)`` at the same times, with the parameters of then.
        keeper: Keeps where the training stands at the same times, and says where to go on. A training that goes on
            with the same arguments ends with the same bytes as one that was never stopped.
        chunk: Steps in one compiled run.

    Returns:
        Trained parameters and the losses.

    Raises:
        ValueError: If ``num_steps`` or ``chunk`` is below 1, or ``batch_size`` is not in [1, n].
    """
    n = jax.tree.leaves(data)[0].shape[0]
    if min(num_steps, chunk) < 1 or not 1 <= batch_size <= n:
        raise ValueError(
            f"train needs num_steps >= 1 and batch_size in [1, n], and chunk >= 1: got {num_steps} steps of "
            f"{batch_size} for n={n}, chunk {chunk}."
        )
    run = partial(_run, loss=loss, optimizer=optimizer, batch_size=batch_size, noisy=noisy)
    data = jax.tree.map(jnp.asarray, data)
    standing = Standing(0, _start(params, optimizer), np.zeros(0, np.float32))
    standing = standing if keeper is None else keeper.resumed(standing)
    state, losses = standing.state, [standing.losses] if standing.done else []
    keys = jax.random.split(key, num_steps)
    for start in range(standing.done, num_steps, chunk):
        state, part = run(state, keys[start : start + chunk], data)
        losses.append(part)
        done = start + len(part)
        if keeper is not None:
            losses = [np.concatenate(losses)]
            keeper.keep(Standing(done, state, losses[0]))
        if on_progress is not None:
            jax.block_until_ready(part)  # what was only dispatched is not done
            on_progress(done, num_steps)
        if on_look is not None:
            on_look(done, state[0])
    return Trained(state[0], jnp.concatenate(losses))


def _start(params: PyTree, optimizer: optax.GradientTransformation) -> tuple[PyTree, Any]:
    """Parameters and the optimizer's state, of the firm types that an update leaves, so that no run compiles anew."""
    params = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)), params)
    return params, optimizer.init(params)


@partial(jax.jit, static_argnames=("loss", "optimizer", "batch_size", "noisy"))
def _run(
    state: Any, keys: jax.Array, data: Any, *, loss: Any, optimizer: Any, batch_size: int, noisy: bool
) -> tuple[Any, jax.Array]:
    n = jax.tree.leaves(data)[0].shape[0]

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, optimizer_state = state
        key_rows, key_noise = jax.random.split(key) if noisy else (key, key)
        rows = jax.random.choice(key_rows, n, (batch_size,), replace=False)
        drawn = partial(loss, key_noise) if noisy else loss
        value, gradient = jax.value_and_grad(drawn)(params, jax.tree.map(lambda leaf: leaf[rows], data))
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    return jax.lax.scan(step, state, keys)


def minimize(
    key: jax.Array,
    params: PyTree,
    loss: Callable[[jax.Array, PyTree, PyTree], jax.Array],
    data: Iterator[PyTree],
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Minimizes a loss that draws its own batches, from data that may be larger than memory.

    Calls with the same ``loss`` and ``optimizer`` objects and the same shapes share one compiled program.

    Args:
        key: Random key; each step gets a new one.
        params: Parameters to start from, a pytree of arrays.
        loss: ``loss(key, params, part)`` draws a batch from a part of the data and gives a scalar.
        data: Parts of the data, of equal shapes; each serves a run of at most 50 steps. ``itertools.repeat(whole)``
            where all of it fits into memory.
        optimizer: From optax.
        num_steps: Number of updates.
        on_progress: Called as ``on_progress(done, num_steps)`` between compiled runs of steps.

    Returns:
        Trained parameters and the losses.

    Raises:
        ValueError: If ``num_steps`` is below 1, or ``data`` ends before the last step.
    """
    if num_steps < 1:
        raise ValueError(f"minimize needs num_steps >= 1, got {num_steps}.")
    state, losses = _start(params, optimizer), []
    keys = jax.random.split(key, num_steps)
    for start in range(0, num_steps, _CHUNK):
        try:
            rows = next(data)
        except StopIteration:
            raise ValueError(f"minimize ran out of data after {start} of {num_steps} steps.") from None
        state, part = _minimize(state, keys[start : start + _CHUNK], rows, loss=loss, optimizer=optimizer)
        losses.append(part)
        if on_progress is not None:
            jax.block_until_ready(part)  # what was only dispatched is not done
            on_progress(min(start + _CHUNK, num_steps), num_steps)
    return Trained(state[0], jnp.concatenate(losses))


@partial(jax.jit, static_argnames=("loss", "optimizer"))
def _minimize(state: Any, keys: jax.Array, part: Any, *, loss: Any, optimizer: Any) -> tuple[Any, jax.Array]:
    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, optimizer_state = state
        value, gradient = jax.value_and_grad(loss, argnums=1)(key, params, part)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    return jax.lax.scan(step, state, keys)
