"""Does the answer follow when the input is turned? Whole orbits of test inputs, beside the ways that need no training.

The protocol is "C_n-avg" of arXiv 2310.01647 and 2405.14089: every element of the group on every test input. Quarters
and mirror images are exact; other angles are interpolated, by four pixels or by the nearest one, with the border held.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from repsim_jax.canonicalization.actions import Action, Images, Trivial
from repsim_jax.canonicalization.canonicalizers import checked
from repsim_jax.canonicalization.groups import Elements, Group
from repsim_jax.canonicalization.planar import moves_pixels
from repsim_jax.canonicalization.wrapping import Equivariant
from repsim_jax.errors import BadArrayError, UnknownNameError

INTERPOLATIONS = ("bilinear", "nearest")
REPAIRED, ALONE, AVERAGED, RANDOM = "repaired", "model alone", "mean over the orbit", "random pose"
_DECILES = 10


class Way(NamedTuple):
    """How one way to answer fares on the orbits of n inputs under g elements.

    Attributes:
        name: "repaired" (the wrapped model), "model alone", "mean over the orbit" or "random pose".
        errors: (g, n), largest difference between an answer for the transformed input and the transformed answer.
        agrees: (g, n), whether the class is that of the input as it came; None where the output is no row of logits.
        right: (g, n), whether the class is the label; None without labels.
    """

    name: str
    errors: Float[np.ndarray, "g n"]
    agrees: Bool[np.ndarray, "g n"] | None
    right: Bool[np.ndarray, "g n"] | None

    @property
    def upright(self) -> float | None:
        """Share of the inputs, as they came, whose class is right."""
        return None if self.right is None else float(self.right[0].mean())

    @property
    def orbit(self) -> float | None:
        """Share of all transformed inputs whose class is right: the mean over elements."""
        return None if self.right is None else float(self.right.mean())


class ElementRow(NamedTuple):
    """What one element of the group does to the repaired model.

    Attributes:
        index: Its place in the group.
        max_error: Largest error over inputs.
        mean_error: Mean error over inputs.
        exact: Share of inputs whose answers are equal to the last bit.
        followed: Share of inputs h x for which the chosen element is h times that of x.
        agrees: Share of equal classes; None where there are none.
        accuracy: Share of right classes; None without labels.
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    max_error: float
    mean_error: float
    exact: float
    followed: float
    agrees: float | None
    accuracy: float | None


class MarginRow(NamedTuple):
    """What the repaired model does where the choice was so sure.

    Attributes:
        low: Least margin.
        high: Greatest margin.
        num: Inputs.
        followed: As in ``ElementRow``, over all elements but the identity.
        mean_error: As there.
        agrees: As there.
        accuracy: As there.
    """

    low: float
    high: float
    num: int
    followed: float
    mean_error: float
    agrees: float | None
    accuracy: float | None


class Equivariance(NamedTuple):
    """How far a wrapped model is from following the group.

    Attributes:
        group: What should not matter.
        interpolation: Of the transformed inputs: "none" where only pixels moved, else "bilinear" or "nearest".
        ways: The repaired model first, then those that it is compared with.
        followed: (g, n), whether the chosen element of h x is h times that of x.
        margins: (n,), of the inputs as they came.
        num_ties: (n,), elements within the tolerance of the least energy.
        scale: Root mean square of the model's output, by which errors are to be read.
    """

    group: Group
    interpolation: str
    ways: tuple[Way, ...]
    followed: Bool[np.ndarray, "g n"]
    margins: Float[np.ndarray, " n"]
    num_ties: Int[np.ndarray, " n"]
    scale: float

    @property
    def repaired(self) -> Way:
        """The wrapped model."""
        return self.ways[0]

    @property
    def upright_drop(self) -> float | None:
        """Accuracy that the inputs lose as they came: the model alone less the repaired one."""
        alone = [way.upright for way in self.ways if way.name == ALONE]
        upright = self.repaired.upright
        return None if not alone or alone[0] is None or upright is None else alone[0] - upright

    @property
    def num_tied(self) -> int:
        """Inputs with more than one element of least energy."""
        return int((self.num_ties > 1).sum())

    def by_element(self) -> list[ElementRow]:
        """A row for each element of the group.

        Returns:
            In the group's order.
        """
        way = self.repaired
        return [
            ElementRow(
                i, float(way.errors[i].max()), float(way.errors[i].mean()), float((way.errors[i] == 0).mean()),
                float(self.followed[i].mean()), _share(way.agrees, np.s_[i]), _share(way.right, np.s_[i]),
            )
            for i in range(self.group.order)
        ]  # fmt: skip

    def by_margin(self) -> list[MarginRow]:
        """A row for each tenth of the inputs by margin, the least sure first.

        Returns:
            Ten rows, or one for each input where there are fewer; none for a group of one element.
        """
        if self.group.order == 1:
            return []
        parts = np.array_split(np.argsort(self.margins, kind="stable"), min(_DECILES, len(self.margins)))
        way = self.repaired
        return [
            MarginRow(
                float(self.margins[rows].min()), float(self.margins[rows].max()), len(rows),
                float(self.followed[1:, rows].mean()), float(way.errors[1:, rows].mean()),
                _share(way.agrees, np.s_[1:, rows]), _share(way.right, np.s_[1:, rows]),
            )
            for rows in parts
        ]  # fmt: skip


def _share(flags: np.ndarray | None, place: Any) -> float | None:
    return None if flags is None else float(flags[place].mean())


def equivariance_audit(
    key: jax.Array,
    wrapped: Equivariant,
    x: Float[Array, "n *shape"] | np.ndarray,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    interpolation: str = "bilinear",
    batch_size: int = 256,
    baselines: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Equivariance:
    """Applies every element to every input, and looks whether the answers follow.

    Args:
        key: Random key; draws the poses of the random baseline.
        wrapped: From ``equivariant``, of one input.
        x: Test inputs.
        labels: (n,) classes, where the output is a row of logits.
        interpolation: Of images at angles that are no quarters: "bilinear" as our own action, or "nearest" as the
            paper's code, which has clamped borders too.
        batch_size: Inputs at once.
        baselines: Whether the model alone, its mean over the orbit and a random pose are looked at; the mean takes the
            square of the group's order in passes of the model.
        on_progress: Called as ``on_progress(done, elements)``.

    Returns:
        Errors, shares and accuracies.

    Raises:
        BadArrayError: If the inputs do not fit, the labels are of another number, or the model takes several inputs.
        UnknownNameError: If there is no such interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        raise UnknownNameError.of("interpolation", str(interpolation), INTERPOLATIONS)
    if len(wrapped.in_actions) != 1:
        raise BadArrayError(f"equivariance_audit needs a model of one input, got one of {len(wrapped.in_actions)}.")
    canonicalizer = wrapped.canonicalizer
    group, x = canonicalizer.group, checked(canonicalizer, x)
    if labels is not None and np.shape(labels) != (len(x),):
        raise BadArrayError(f"equivariance_audit needs labels ({len(x)},), got shape {np.shape(labels)}.")
    orbits = _Orbits(group, _posing(canonicalizer.action, interpolation), x, min(batch_size, len(x)))
    names = (REPAIRED, ALONE, AVERAGED, RANDOM) if baselines else (REPAIRED,)
    found: list[_OfElement] = []
    for index in range(group.order):
        found.append(_of_element(jax.random.fold_in(key, index), wrapped, orbits, index, names))
        if on_progress is not None:
            on_progress(index + 1, group.order)
    return _summed(wrapped, orbits, found, names, None if labels is None else np.asarray(labels))


class _Orbits(NamedTuple):
    group: Group
    posing: Any
    x: jax.Array
    size: int

    def batches(self, index: int) -> list[jax.Array]:
        """All inputs under one element, in batches of one size so that one program does; the last is filled up."""
        rows = np.arange(-(-len(self.x) // self.size) * self.size) % len(self.x)
        elements = self.group.elements(jnp.full(self.size, index), self.x.dtype)
        return [
            _posed(elements, self.x[part], group=self.group, action=self.posing)
            for part in rows.reshape(-1, self.size)
        ]  # fmt: skip


@partial(jax.jit, static_argnames=("group", "action"))
def _posed(elements: Elements, x: jax.Array, *, group: Group, action: Action) -> jax.Array:
    return action.act(group, elements, x)


def _posing(action: Any, interpolation: str) -> Any:
    return Images(nearest=True) if interpolation == "nearest" and isinstance(action, Images) else action


class _OfElement(NamedTuple):
    """All answers for one element: leaves of the output by way, and what the canonicalizer chose."""

    answers: dict[str, list[np.ndarray]]
    chosen: np.ndarray
    margins: np.ndarray
    num_ties: np.ndarray


def _of_element(
    key: jax.Array, wrapped: Equivariant, orbits: _Orbits, index: int, names: tuple[str, ...]
) -> _OfElement:
    parts: dict[str, list[list[np.ndarray]]] = {name: [] for name in names}
    chosen = []
    for number, x in enumerate(orbits.batches(index)):
        answer = wrapped(x)
        found = answer.canonicalized
        chosen.append([np.asarray(one) for one in (found.elements.index, found.margin, found.num_ties)])
        for name in names:
            outputs = answer.outputs if name == REPAIRED else _other(jax.random.fold_in(key, number), wrapped, x, name)
            if outputs is not None:
                parts[name].append([np.asarray(leaf) for leaf in jax.tree.leaves(outputs)])
    n = len(orbits.x)
    answers = {
        name: [np.concatenate(one)[:n] for one in zip(*leaves, strict=True)] for name, leaves in parts.items() if leaves
    }
    return _OfElement(answers, *(np.concatenate(one)[:n] for one in zip(*chosen, strict=True)))


def _other(key: jax.Array, wrapped: Equivariant, x: jax.Array, name: str) -> Any:
    group, num = wrapped.canonicalizer.group, len(x)
    if name == ALONE:
        return wrapped.at(group.identity(num, x.dtype), (x,))
    if name == RANDOM:
        return wrapped.at(group.elements(jax.random.randint(key, (num,), 0, group.order), x.dtype), (x,))
    total = None
    for index in range(group.order):
        outputs = jax.tree.map(np.asarray, wrapped.at(group.elements(jnp.full(num, index), x.dtype), (x,)))
        if any(leaf.dtype.kind not in "f" for leaf in jax.tree.leaves(outputs)):
            return None  # whole numbers have no mean
        total = outputs if total is None else jax.tree.map(np.add, total, outputs)
    return jax.tree.map(lambda leaf: leaf / group.order, total)


def _summed(
    wrapped: Equivariant, orbits: _Orbits, found: list[_OfElement], names: tuple[str, ...], labels: np.ndarray | None
) -> Equivariance:
    group, actions = orbits.group, tuple(jax.tree.leaves(wrapped.out_action))
    ways = [_way(name, group, actions, found, labels) for name in names if name in found[0].answers]
    table = np.asarray(group.table)
    followed = np.stack([table[index, found[0].chosen] == one.chosen for index, one in enumerate(found)])
    is_exact = not isinstance(orbits.posing, Images) or moves_pixels(group)
    interpolation = "none" if is_exact else "nearest" if orbits.posing.nearest else "bilinear"
    squares = [np.square(leaf.astype(np.float64)).mean() for leaf in found[0].answers[REPAIRED]]
    first = found[0]
    return Equivariance(
        group, interpolation, tuple(ways), followed, first.margins, first.num_ties, float(np.mean(squares) ** 0.5)
    )


def _way(name: str, group: Group, actions: tuple[Any, ...], found: list[_OfElement], labels: np.ndarray | None) -> Way:
    upright = found[0].answers[name]
    errors = np.stack([
        _errors(one.answers[name], _moved(group, actions, upright, index)) for index, one in enumerate(found)
    ])  # fmt: skip
    is_class = len(upright) == 1 and upright[0].ndim == 2 and upright[0].shape[1] > 1 and actions == (Trivial(),)
    if not is_class:
        return Way(name, errors, None, None)
    classes = np.stack([one.answers[name][0].argmax(1) for one in found])
    return Way(name, errors, classes == classes[0], None if labels is None else classes == labels)


def _moved(group: Group, actions: tuple[Any, ...], leaves: list[np.ndarray], index: int) -> list[np.ndarray]:
    moved = []
    for action, leaf in zip(actions, leaves, strict=True):
        if isinstance(action, Trivial) or index == 0:
            moved.append(leaf)
            continue
        elements = group.elements(jnp.full(len(leaf), index))
        moved.append(np.asarray(_posed(elements, jnp.asarray(leaf), group=group, action=action)))
    return moved


def _errors(answers: list[np.ndarray], wanted: list[np.ndarray]) -> np.ndarray:
    parts = [
        np.abs(one.astype(np.float64) - other).reshape(len(one), -1).max(1)
        for one, other in zip(answers, wanted, strict=True)
    ]
    return np.max(parts, axis=0)
