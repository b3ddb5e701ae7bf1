"""What does the model see of each example? The example itself, and views of it that are drawn once and for all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from repsim_jax.errors import BadArrayError

Augment = Callable[[jax.Array, jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Examples:
    """Examples and their views; ``augmented`` and ``with_views`` make them.

    Attributes:
        x: The examples as they are.
        draws: Their views; where ``augment`` is given, the keys from which it draws them.
        augment: ``augment(key, x)`` gives one view of one example; None where views are given.
    """

    x: Shaped[Array, "n *shape"]
    draws: Shaped[Array, "n v *rest"]
    augment: Augment | None = field(default=None, metadata={"static": True})

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_views(self) -> int:
        """How many views there are of each example, besides itself."""
        return self.draws.shape[1]

    def rows(self, which: Any) -> "Examples":
        """Some of the examples.

        Args:
            which: Numbers of the examples, or a slice.

        Returns:
            Those, with the views that they had.
        """
        return replace(self, x=self.x[which], draws=self.draws[which])

    def some_views(self, which: Any) -> "Examples":
        """All of the examples with some of their views.

        Args:
            which: Numbers of the views, or a slice.

        Returns:
            The examples.
        """
        return replace(self, draws=self.draws[:, which])

    def seen(self) -> Shaped[Array, "n v1 *shape"]:
        """The examples and their views.

        Returns:
            Each example, followed by its views along the second axis.
        """
        views = self.draws
        if self.augment is not None:
            views = jax.vmap(jax.vmap(self.augment, (0, None)))(self.draws, self.x)
        return jnp.concatenate([self.x[:, None], views.astype(self.x.dtype)], axis=1)


def augmented(
    key: jax.Array, x: Any, augment: Augment, *, num_views: int = 8, ids: Sequence[int] | Int[Array, " n"] | None = None
) -> Examples:
    """Examples whose views an augmentation draws.

    The views of an example depend on the key and its id alone: neither on the other examples, nor on how they are
    batched or spread over devices. They are drawn anew wherever they are needed, so that they take no memory.

    Args:
        key: Random key of all views.
        x: Examples (n, ...): floating-point numbers, or signed integers where these are tokens.
        augment: ``augment(key, x)`` gives one view of one example, of the same shape, in JAX. The same function object
            compiles once.
        num_views: Views of each example, at least 2.
        ids: An integer for each example; None is 0, 1, ...

    Returns:
        The examples.

    Raises:
        BadArrayError: If the examples are empty, not finite or of another dtype, or if there are fewer than
            two views, or the augmentation changes shapes.
    """
    x = _checked(x, "x")
    if num_views < 2:
        raise BadArrayError(
            f"augmented needs num_views >= 2, since views are compared with each other; got {num_views}."
        )
    numbers = jnp.arange(len(x)) if ids is None else jnp.asarray(ids)
    if numbers.shape != (len(x),):
        raise BadArrayError(f"augmented needs one id for each of {len(x)} examples, got shape {numbers.shape}.")
    if not callable(augment):
        raise BadArrayError(f"augmented needs a function augment(key, x), got {type(augment).__name__}.")
    view = jax.eval_shape(augment, key, x[0])
    if getattr(view, "shape", None) != x.shape[1:]:
        raise BadArrayError(f"augment must keep the shape of an example {x.shape[1:]}; it gave {view}.")
    keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(key, number), num_views))(numbers)
    return Examples(x, keys, augment)


def with_views(x: Any, views: Any) -> Examples:
    """Examples whose views are given, for augmentations that are not written in JAX.

    Args:
        x: Examples (n, ...): floating-point numbers, or signed integers where these are tokens.
        views: Views (n, v, ...) of them, v >= 2.

    Returns:
        The examples.

    Raises:
        BadArrayError: If arrays are empty, not finite or of another dtype, or do not belong together.
    """
    x, views = _checked(x, "x"), _checked(views, "views")
    if views.ndim != x.ndim + 1 or len(views) != len(x) or views.shape[2:] != x.shape[1:] or views.shape[1] < 2:
        raise BadArrayError(
            f"with_views takes x (n, ...) and views (n, v, ...) of the same examples, v >= 2: "
            f"got {x.shape} and {views.shape}."
        )
    return Examples(x, views)


def _checked(x: Any, name: str) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim < 2 or x.size == 0:
        raise BadArrayError(f"influence needs {name} (n, ...) with at least one example, got shape {x.shape}.")
    if not jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(x.dtype, jnp.signedinteger):
        raise BadArrayError(
            f"influence needs floating-point {name} (or signed integers for tokens), got {x.dtype}; "
            "scale images as in training, for example x / 255 - 0.5."
        )
    bad = np.flatnonzero(~np.asarray(jnp.isfinite(x.reshape(len(x), -1)).all(1)))
    if bad.size:
        raise BadArrayError(f"influence: {name} holds NaN or infinity in {bad.size} rows, the first is {bad[0]}.")
    return x
