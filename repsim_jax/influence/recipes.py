"""How is an encoder trained without labels? The optimizer, its schedule, and a target that follows slowly."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from repsim_jax.errors import BadArrayError, UnknownNameError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the rate rises linearly, then falls to zero along a cosine.

    Attributes:
        num_steps: Updates.
        batch_size: Examples of an update, each seen in two views.
        learning_rate: The highest.
        warmup: Share of the steps in which the rate rises.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        weight_decay: Of matrices; biases and norms have none.
        target_momentum: How much of BYOL's target stays at the first step; it rises to 1 along a cosine.
    """

    num_steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup: float = 0.05
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    target_momentum: float = 0.99

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "sgd"):
            raise UnknownNameError.of("optimizer", str(self.optimizer), ("adamw", "sgd"))
        whole = type(self.num_steps) is int and type(self.batch_size) is int
        if not whole or self.num_steps < 1 or self.batch_size < 2:
            raise BadArrayError(
                f"pretrain needs num_steps >= 1 and batch_size >= 2, since objectives compare examples: got "
                f"{self.num_steps!r} and {self.batch_size!r}."
            )
        shares = 0 <= self.warmup < 1 and 0 <= self.target_momentum <= 1
        if not (0 < self.learning_rate < float("inf") and 0 <= self.weight_decay < float("inf") and shares):
            raise BadArrayError(
                "pretrain needs learning_rate > 0, weight_decay >= 0, warmup in [0, 1) and target_momentum in [0, 1]: "
                f"got {self.learning_rate!r}, {self.weight_decay!r}, {self.warmup!r} and {self.target_momentum!r}."
            )


@lru_cache(maxsize=64)
def optimizer_of(recipe: Recipe) -> optax.GradientTransformation:
    """The optimizer of parameters {"online": model, "target": parts of it, or {}}, whose target follows the model.

    Args:
        recipe: Equal ones give the same object, so that a training compiles once.

    Returns:
        From optax.
    """
    warmup = round(recipe.warmup * recipe.num_steps)
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else recipe.learning_rate, recipe.learning_rate, warmup, recipe.num_steps
    )
    if recipe.optimizer == "adamw":
        # eps_root: differentiation through the steps would divide by zero where a parameter has no gradient
        online = optax.adamw(rate, weight_decay=recipe.weight_decay, mask=_matrices, eps_root=1e-12)
    else:
        decay = optax.add_decayed_weights(recipe.weight_decay, mask=_matrices)
        online = optax.chain(decay, optax.sgd(rate, momentum=0.9))
    return _with_target(online, recipe)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _with_target(online: optax.GradientTransformation, recipe: Recipe) -> optax.GradientTransformation:
    """Lets the target follow the online model, whose update comes first."""

    def init(params: Any) -> Any:
        return online.init(params["online"]), jnp.zeros((), jnp.int32)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        step, inner = online.update(updates["online"], state[0], params["online"])
        progress = state[1] / recipe.num_steps
        stays = 1 - (1 - recipe.target_momentum) * (jnp.cos(jnp.pi * progress) + 1) / 2
        after: Any = optax.apply_updates(params["online"], step)
        followed = {name: after[name] for name in params["target"]}
        moved = jax.tree.map(lambda new, old: (1 - stays) * (new - old), followed, params["target"])
        return {"online": step, "target": moved}, (inner, state[1] + 1)

    return optax.GradientTransformation(init, update)
