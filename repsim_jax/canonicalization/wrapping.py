"""How is a model made equivariant without touching it? It only sees canonical poses, and its output is turned back.

:math:`\\Phi(x) = c(x) \\cdot \\varphi(c(x)^{-1} x)`, for any model :math:`\\varphi`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax._compat import enable_x64, is_traced
from repsim_jax.canonicalization.actions import Action, Trivial
from repsim_jax.canonicalization.canonicalizers import Canonicalized
from repsim_jax.canonicalization.groups import Elements, Group
from repsim_jax.canonicalization.replication import EquiadaptImages, check_undone
from repsim_jax.errors import BadArrayError, RepsimError
from repsim_jax.kernels.models import as_model


class Answer(NamedTuple):
    """What a wrapped model says.

    Attributes:
        outputs: The model's output in the pose of the input: what the model returned, an array or a tree of arrays.
        canonicalized: The canonical forms that the model saw, and the elements that were undone.
    """

    outputs: Any
    canonicalized: Canonicalized


def equivariant(
    model: Any,
    canonicalizer: Any,
    *,
    params: Any = None,
    in_action: Any = None,
    out_action: Any = Trivial(),  # noqa: B008 (frozen)
    on_host: bool = False,
) -> "Equivariant":
    """Wraps a model.

    Args:
        model: A ``flax.nnx`` module, a ``flax.linen`` module, ``apply_fn(params, x)`` where params are given, or any
            callable of arrays: of JAX's, which works inside ``jax.jit``, or of NumPy's (ONNX, PyTorch) ``on_host``.
        canonicalizer: From ``untrained``, ``fit`` or ``Canonicalizer``, or ``PCAFrames``.
        params: Of a linen module or a function of parameters.
        in_action: What the group does to the model's inputs: a tuple where there are several, of which the first is
            what the canonicalizer sees. None: one input, as the canonicalizer's own.
        out_action: What it does to the output: an action, or a tree of actions of the same structure as the output.
            ``Trivial()`` makes the model invariant.
        on_host: Whether the model takes and gives NumPy arrays. Gradients and jit stop there.

    Returns:
        A function of inputs that returns an ``Answer``.

    Raises:
        RepsimError: If the model is none of these.
        BadArrayError: If outputs are to be turned back for reflections of equiadapt's (``Views.compat``).
    """
    actions = in_action if isinstance(in_action, tuple) else (in_action or canonicalizer.action,)
    every = [*actions, *jax.tree.leaves(out_action)]
    wrong = [type(one).__name__ for one in every if not isinstance(one, Action)]
    if wrong:
        raise RepsimError(f"equivariant needs actions, such as Images(), Boxes(h, w) or Trivial(); got {wrong[0]}.")
    undone = any(not isinstance(one, Trivial) for one in jax.tree.leaves(out_action))
    if undone and isinstance(canonicalizer.action, EquiadaptImages):
        check_undone(canonicalizer.group)
    return Equivariant(_callable(model, params, on_host), canonicalizer, actions, out_action, on_host)


def _callable(model: Any, params: Any, on_host: bool) -> Callable[..., Any]:
    bases = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "torch" in bases:
        raise RepsimError(
            "a PyTorch module takes tensors: pass a function of NumPy arrays, such as "
            "lambda x: model(torch.from_numpy(x)).detach().numpy(), and on_host=True."
        )
    if not callable(model):
        raise RepsimError(f"equivariant needs a model that can be called, got {type(model).__name__}.")
    if on_host or ("flax" not in bases and params is None):
        return model
    parts = as_model(model, params)
    return partial(_applied, parts.params, parts.rest, apply=parts.apply)


@partial(jax.jit, static_argnames=("apply",))
def _applied(params: Any, rest: Any, x: Any, *, apply: Any) -> Any:
    return apply(params, rest, x)


@dataclass(frozen=True, eq=False)
class Equivariant:
    """A model that only sees canonical poses; without state, so that it can be called from anywhere.

    Attributes:
        model: A function of arrays.
        canonicalizer: Finds the poses.
        in_actions: One for each input.
        out_action: A tree of actions.
        on_host: Whether the model takes and gives NumPy arrays.
    """

    model: Callable[..., Any]
    canonicalizer: Any
    in_actions: tuple[Action, ...]
    out_action: Any
    on_host: bool = False

    def __call__(self, *inputs: Any) -> Answer:
        """Answers for inputs in any pose.

        Args:
            *inputs: Arrays with examples first, the first of which the canonicalizer sees.

        Returns:
            The outputs in the inputs' pose, and the poses.

        Raises:
            BadArrayError: If an input or the model's output does not fit its action.
            RepsimError: If a model on the host is called inside a transformation.
        """
        if len(inputs) != len(self.in_actions):
            raise BadArrayError(f"the wrapped model takes {len(self.in_actions)} inputs, got {len(inputs)}.")
        if self.on_host and any(map(is_traced, jax.tree.leaves(inputs))):
            raise RepsimError("a model on the host cannot run inside jax.jit or jax.grad: call it outside.")
        for action, one in zip(self.in_actions[1:], inputs[1:], strict=True):
            action.check(self.canonicalizer.group, one)
        if not self.canonicalizer.averages:
            found = self.canonicalizer(inputs[0])
            return Answer(self.at(found.elements, inputs), found)
        found, frames = self.canonicalizer.frames(inputs[0])
        return Answer(self._mean(frames, inputs), found)

    def at(self, elements: Elements, inputs: tuple[Any, ...]) -> Any:
        """The model's answer for inputs in poses that are given, turned back.

        Args:
            elements: One for each example, whose inverse brings it before the model.
            inputs: As in a call.

        Returns:
            The outputs in the inputs' pose.

        Raises:
            BadArrayError: If the model's output does not fit its action.
        """
        group = self.canonicalizer.group
        posed = _inverted(elements, inputs, group=group, actions=self.in_actions)
        outputs = self.model(*(map(np.asarray, posed) if self.on_host else posed))
        actions, structure = jax.tree.flatten(self.out_action)
        leaves = _fitting(outputs, actions, structure, group, len(elements.index))
        wide = self.on_host and any(np.asarray(leaf).dtype.itemsize == 8 for leaf in leaves)
        with enable_x64() if wide else nullcontext():
            turned = _acted(elements, tuple(leaves), group=group, actions=tuple(actions))
        return structure.unflatten([np.asarray(leaf) for leaf in turned] if self.on_host else turned)

    def _mean(self, frames: Any, inputs: tuple[Any, ...]) -> Any:
        total, num = None, len(frames.elements.index)
        for i in range(num):
            weights = frames.weights[:, i]
            if self.on_host and not bool((weights > 0).any()):
                continue
            outputs = self.at(Elements(frames.elements.index[i], frames.elements.matrix[i]), inputs)
            part = jax.tree.map(partial(_weighted, weights), outputs)
            total = part if total is None else jax.tree.map(lambda a, b: a + b, total, part)
        return total


def _weighted(weights: Any, output: Any) -> Any:
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise BadArrayError(f"outputs of type {output.dtype} have no mean over poses: return floats, or ties='first'.")
    xp = np if isinstance(output, np.ndarray) else jnp
    shape = (-1, *[1] * (output.ndim - 1))
    return xp.asarray(weights, output.dtype).reshape(shape) * output


def _fitting(outputs: Any, actions: list[Action], structure: Any, group: Group, num: int) -> list[Any]:
    """The arrays of an output, each of which fits its action."""
    try:
        leaves = structure.flatten_up_to(outputs)
    except ValueError as error:
        raise BadArrayError(
            f"the model's output has another structure than out_action, {structure}: {error}"
        ) from error
    for action, leaf in zip(actions, leaves, strict=True):
        if not hasattr(leaf, "shape"):
            raise BadArrayError(
                f"the model's output holds a {type(leaf).__name__} where out_action has {action}: give out_action the "
                "structure of the output, with an action for each array."
            )
        try:
            action.check(group, leaf)
        except BadArrayError as error:
            raise BadArrayError(f"the model's output does not fit out_action {action}: {error}") from error
        if leaf.shape[0] != num:
            raise BadArrayError(
                f"the model's output has {leaf.shape[0]} rows for {num} inputs: examples must stay on the first axis."
            )
    return leaves


@partial(jax.jit, static_argnames=("group", "actions"))
def _inverted(elements: Elements, inputs: tuple[Any, ...], *, group: Group, actions: tuple[Action, ...]) -> list[Any]:
    return [action.invert(group, elements, x) for action, x in zip(actions, inputs, strict=True)]


@partial(jax.jit, static_argnames=("group", "actions"))
def _acted(elements: Elements, outputs: tuple[Any, ...], *, group: Group, actions: tuple[Action, ...]) -> list[Any]:
    return [action.act(group, elements, x) for action, x in zip(actions, outputs, strict=True)]
