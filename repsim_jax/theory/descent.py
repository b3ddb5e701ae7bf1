"""What does training in steps do to the kernel? Descent with minibatches, momentum or Adam, many networks at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.linalg import unit_rows
from repsim_jax.theory.architectures import Encoder, apply, init, tangent_kernel
from repsim_jax.theory.networks import Params
from repsim_jax.theory.objectives import LOSSES, Objective

Method = Literal["descent", "momentum", "adam"]
_METHODS = ("descent", "momentum", "adam")
# Of each of the two power iterations: an eigenvalue to about one percent where the next is 3 % smaller.
_ITERATIONS = 80


@dataclass(frozen=True)
class Optimizer:
    r"""How a network is trained.

    Gradient descent makes steps of ``rate`` times the largest stable one. Momentum multiplies its steps by one minus
    its decay, so that the same number of steps covers the same time, but for 1 / (1 - decay) steps to gather speed.

    Adam has no such scale: its steps are ``adam_rate`` times the width to some power that the caller knows, and each
    counts as ``step_time``. In NTK parametrization a step of equal size for each weight changes outputs by
    :math:`\sqrt M` times its size: with rates like :math:`M^{-1/2}` the outputs of networks with one hidden layer learn
    equally fast at all widths M; with one rate for all widths, wide ones jump; with rates like 1/M they stand still.

    Attributes:
        method: ``descent``, ``momentum`` or ``adam``.
        batch_size: Triplets in a step, drawn anew without repetition; None: all.
        decay: Of momentum, in [0, 1).
        step_time: Time that a step of Adam counts as; a quarter is what gradient descent takes at a tenth of its edge
            on InfoNCE of 16 triplets.

    Source:
        Yang and Littwin 2023, arXiv 2308.01814, for adaptive steps in the limit of large widths; Kingma and Ba 2015,
        arXiv 1412.6980, for Adam, with optax's settings.
    """

    method: Method = "descent"
    batch_size: int | None = None
    decay: float = 0.9
    step_time: float = 0.25

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise UnknownNameError.of("optimizer", str(self.method), _METHODS)
        if self.batch_size is not None and (type(self.batch_size) is not int or self.batch_size < 2):
            raise BadArrayError(
                f"Optimizer needs a batch_size of 2 triplets or more, or None, got {self.batch_size!r}."
            )
        if not 0 <= self.decay < 1:
            raise BadArrayError(f"Optimizer needs a decay of momentum in [0, 1), got {self.decay!r}.")

    @property
    def transformation(self) -> optax.GradientTransformation:
        """What turns a gradient into a direction, before it is multiplied by the rate."""
        if self.method == "momentum":
            return optax.chain(optax.trace(self.decay), optax.scale(1.0 - self.decay))
        return optax.scale_by_adam() if self.method == "adam" else optax.identity()


class Descended(NamedTuple):
    """Training of several networks, looked at now and then; arrays have a leading axis of seeds.

    Attributes:
        times: (s, t) steps times the rate of gradient descent: the time of gradient flow that was covered.
        change: (s, t) relative Frobenius change of the tangent kernel since the start.
        loss: (s, t) of all triplets, also where a step sees some of them.
        moved: (s, t) distance of all weights from their start.
        outputs: (s, n, k) embeddings at the end.
        start_loss: (s,) before training.
        stable_rate: (s,) the largest stable step of gradient descent at the start.
        rate: (s,) of gradient descent, relative to that: as asked, or less, such that whole steps end at the horizon.
        num_steps: (s,) steps in all.
    """

    times: Float[Array, "s t"]
    change: Float[Array, "s t"]
    loss: Float[Array, "s t"]
    moved: Float[Array, "s t"]
    outputs: Float[Array, "s n k"]
    start_loss: Float[Array, " s"]
    stable_rate: Float[Array, " s"]
    rate: Float[Array, " s"]
    num_steps: Int[Array, " s"]


def stable_rate(
    key: jax.Array, params: Any, function: Callable[[Any], jax.Array], loss: Callable[[jax.Array], jax.Array]
) -> Float[Array, ""]:
    r"""The largest step with which gradient descent does not blow up at once, :math:`2 / \lambda_{\max}`.

    Of the curvature :math:`J^T H J` (H the Hessian of the loss in the outputs, J the Jacobian of the outputs: what a
    network of constant kernel has), the algebraically largest eigenvalue, by power iteration on products with vectors;
    once to find the size of the spectrum, and once more shifted by it, since H need not be positive.

    Args:
        key: Random key; draws where the iteration starts.
        params: Where.
        function: Parameters to outputs.
        loss: Outputs to a number.

    Returns:
        The step; infinity where no direction curves upward.

    Source:
        The edge of stability on quadratic functions; Pearson and Schmidt's split of the Hessian, see Schraudolph 2002,
        "Fast curvature matrix-vector products".
    """
    outputs, forward = jax.linearize(function, params)
    backward = jax.linear_transpose(forward, params)
    flat, restore = ravel_pytree(params)

    def product(v: jax.Array) -> jax.Array:
        curved = jax.jvp(jax.grad(loss), (outputs,), (forward(restore(v)),))[1]
        return ravel_pytree(backward(curved)[0])[0]

    def largest(shift: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        def ahead(v: jax.Array, _: None) -> tuple[jax.Array, None]:
            w = product(v) + shift * v
            return w / jnp.maximum(jnp.linalg.norm(w), jnp.finfo(w.dtype).tiny), None

        v, _ = jax.lax.scan(ahead, first, None, length=_ITERATIONS)
        value = v @ product(v)
        return jnp.abs(value), value

    first = jax.random.normal(key, flat.shape, flat.dtype)
    first /= jnp.linalg.norm(first)
    _, (_, value) = jax.lax.scan(largest, jnp.zeros((), flat.dtype), None, length=2)
    return jnp.where(value > 0, 2.0 / value, jnp.inf)


def descend(
    key: jax.Array,
    x: Float[Array, "n d"],
    *,
    encoder: Encoder,
    optimizer: Optimizer = Optimizer(),
    losses: tuple[Objective, ...],
    num_seeds: int = 5,
    num_records: int = 12,
    which: int | Int[Array, ""] = 0,
    temperature: float | Float[Array, ""] = 1.0,
    rate: float | Float[Array, ""] = 0.5,
    adam_rate: float | Float[Array, ""] = 0.01,
    horizon: float | Float[Array, ""] = 2.0,
    first_time: float | Float[Array, ""] = 0.1,
) -> Descended:
    r"""Trains networks from different starts, one after the other in one program, and looks at their kernels.

    What is looked at, and when, does not change the program: losses, temperatures, rates and times compile once.

    Args:
        key: Random key; draws weights and minibatches, the same weights for every loss, rate and time.
        x: Anchors, positives and negatives, one after the other.
        encoder: What is trained.
        optimizer: How.
        losses: That the program is made for.
        num_seeds: Networks.
        num_records: Looks, at geometric times from ``first_time`` to ``horizon``, rounded to whole steps.
        which: Which of the losses.
        temperature: Of that loss, in place of its own.
        rate: Of gradient descent and momentum, relative to the largest stable one at the start; 1 is the edge.
        adam_rate: Of Adam, the size of a step of each weight.
        horizon: Time at the end.
        first_time: Time of the first look.

    Returns:
        What was seen. Where training blew up, numbers that are not finite.

    Raises:
        BadArrayError: If the points are not triplets, the batch is larger than their number, or a number that must be
            positive is not.
    """
    _checked(x, optimizer, losses, num_seeds, num_records)
    numbers = {"temperature": temperature, "rate": rate, "adam_rate": adam_rate, "horizon": horizon}
    _checked_positive(first_time=first_time, **numbers)
    return _descend(
        key, x, encoder=encoder, optimizer=optimizer, losses=losses, num_seeds=num_seeds, num_records=num_records,
        which=jnp.asarray(which), first_time=first_time, **numbers,
    )  # fmt: skip


def _checked(x: jax.Array, optimizer: Optimizer, losses: tuple[Objective, ...], seeds: int, records: int) -> None:
    if x.ndim != 2 or not len(x) or len(x) % 3:
        raise BadArrayError(f"descend needs the (3N, d) points of N triplets, got {x.shape}.")
    if optimizer.batch_size is not None and optimizer.batch_size > len(x) // 3:
        raise BadArrayError(f"descend has {len(x) // 3} triplets, fewer than a batch of {optimizer.batch_size}.")
    if not losses or seeds < 1 or records < 1:
        raise BadArrayError(
            f"descend needs a loss, a seed and a look or more, got {len(losses)} losses, {seeds} seeds and {records} "
            "looks."
        )


def _checked_positive(**numbers: Any) -> None:
    for name, value in numbers.items():
        if not is_traced(value) and not 0 < float(value) < np.inf:
            raise BadArrayError(f"descend needs a finite {name} > 0, got {value!r}.")


def starts(
    key: jax.Array, encoder: Encoder, num_inputs: int, num_seeds: int, dtype: jnp.dtype | type = jnp.float32
) -> Params:
    """The networks that ``descend`` trains, as they are before training.

    Args:
        key: As in ``descend``.
        encoder: As in ``descend``.
        num_inputs: Features d of a point.
        num_seeds: As in ``descend``.
        dtype: That of the points.

    Returns:
        Parameters with a leading axis of seeds.
    """
    keys = jax.random.split(jax.random.fold_in(key, encoder.network.width), num_seeds)
    return jax.vmap(lambda one: init(one, encoder, num_inputs, dtype))(keys)


@partial(jax.jit, static_argnames=("encoder", "optimizer", "losses", "num_seeds", "num_records"))
def _descend(
    key: jax.Array, x: jax.Array, *, encoder: Encoder, optimizer: Optimizer, losses: tuple[Objective, ...],
    num_seeds: int, num_records: int, which: jax.Array, temperature: Any, rate: Any, adam_rate: Any, horizon: Any,
    first_time: Any,
) -> Descended:  # fmt: skip
    def loss(f: jax.Array) -> jax.Array:
        return jax.lax.switch(which, [partial(_value, one, temperature) for one in losses], f)

    def one(given: tuple[Params, jax.Array]) -> Descended:
        params, key = given
        key_edge, key_rows = jax.random.split(key)
        edge = stable_rate(key_edge, params, lambda p: apply(p, x, encoder), loss)
        is_adam = optimizer.method == "adam"
        ends, time = _schedule(optimizer.step_time if is_adam else rate * edge, horizon, first_time, num_records)
        state = jnp.zeros((), int), params, optimizer.transformation.init(params), key_rows
        advance = partial(
            _advance, x=x, encoder=encoder, optimizer=optimizer, loss=loss, size=adam_rate if is_adam else time
        )
        look = _looker(params, x, encoder, loss)

        def until(state: Any, end: jax.Array) -> tuple[Any, tuple[jax.Array, ...]]:
            # What has blown up is lost: its output weights tell, for they take part in all gradients.
            alive = lambda at: (at[0] < end) & jnp.isfinite(at[1][-1].sum())  # noqa: E731
            state = jax.lax.while_loop(alive, advance, state)
            return state, look(state[1])

        (_, trained, *_), (change, values, moved) = jax.lax.scan(until, state, ends)
        return Descended(
            times=ends * time, change=change, loss=values, moved=moved, outputs=apply(trained, x, encoder),
            start_loss=loss(apply(params, x, encoder)), stable_rate=edge, rate=time / edge, num_steps=ends[-1],
        )  # fmt: skip

    keys = jax.random.split(jax.random.fold_in(key, 1), num_seeds)
    return jax.lax.map(one, (starts(key, encoder, x.shape[1], num_seeds, x.dtype), keys))


def _value(objective: Objective, temperature: Any, f: jax.Array) -> jax.Array:
    """The loss at a temperature that may be traced, which ``Objective`` itself cannot check."""
    sides = jnp.split(unit_rows(f) if objective.similarity == "cosine" else f, 3)
    return LOSSES[objective.loss](*sides, temperature)


def _schedule(step: Any, horizon: Any, first_time: Any, num_records: int) -> tuple[jax.Array, jax.Array]:
    """Steps after which to look, and the size of a step that ends on the horizon exactly."""
    # Where nothing curves upward any step is stable: a step for each look then.
    step = jnp.where(jnp.isfinite(step), step, horizon / num_records)
    num_steps = jnp.ceil(horizon / step * (1 - 1e-9))
    step = horizon / num_steps
    times = first_time * (horizon / first_time) ** jnp.linspace(0.0, 1.0, num_records) if num_records > 1 else horizon
    ends = jnp.clip(jnp.round(jnp.atleast_1d(times) / step), 1, num_steps).astype(int)
    return ends, step


def _advance(
    state: tuple[jax.Array, Params, Any, jax.Array], *, x: jax.Array, encoder: Encoder, optimizer: Optimizer,
    loss: Callable[[jax.Array], jax.Array], size: jax.Array,
) -> tuple[jax.Array, Params, Any, jax.Array]:  # fmt: skip
    done, params, inner, key = state
    rows, share = x, 1.0
    if optimizer.batch_size is not None:
        key, key_rows = jax.random.split(key)
        num_triplets = len(x) // 3
        drawn = jax.random.choice(key_rows, num_triplets, (optimizer.batch_size,), replace=False)
        rows = x[jnp.concatenate([drawn, num_triplets + drawn, 2 * num_triplets + drawn])]
        # The loss is a sum: scaled up, the gradient is that of all triplets on average.
        share = num_triplets / optimizer.batch_size
    gradient = jax.grad(lambda p: share * loss(apply(p, rows, encoder)))(params)
    updates, inner = optimizer.transformation.update(gradient, inner, params)
    return done + 1, jax.tree.map(lambda a, b: a - size * b, params, updates), inner, key


def _looker(
    start: Params, x: jax.Array, encoder: Encoder, loss: Callable[[jax.Array], jax.Array]
) -> Callable[[Params], tuple[jax.Array, ...]]:
    """What is seen of weights: change of the kernel, loss, and distance from the start."""
    kernel = tangent_kernel(start, x, encoder)

    def look(params: Params) -> tuple[jax.Array, ...]:
        change = jnp.linalg.norm(tangent_kernel(params, x, encoder) - kernel) / jnp.linalg.norm(kernel)
        moved = jnp.sqrt(sum(jnp.sum(jnp.square(a - b)) for a, b in zip(params, start, strict=True)))
        return change, loss(apply(params, x, encoder)), moved

    return look
