"""A claim of the theory, how it is put to the test, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.errors import BadArrayError
from repsim_jax.theory.exponents import Slope
from repsim_jax.theory.flow import Trajectory, gradient_flow
from repsim_jax.theory.networks import Network, Params, init
from repsim_jax.theory.objectives import Objective

Told = Callable[[str], None]
Judged = Literal["holds", "does not hold", "undecided"]


class Series(NamedTuple):
    """What was measured at every width and seed, under one setting.

    Attributes:
        label: The setting: "linear, cosine; tanh".
        widths: (w,).
        values: (w, s).
        slope: Its exponent in the width, where that was fitted.
    """

    label: str
    widths: tuple[int, ...]
    values: np.ndarray
    slope: Slope | None = None


class Claim(NamedTuple):
    """A claim, what was predicted, what was seen, and the verdict.

    Attributes:
        name: Short.
        statement: What is claimed.
        origin: "the paper" (arXiv 2403.08673), "our derivation" or "our measurement".
        predicted: In words and numbers.
        observed: In words and numbers.
        verdict: In a word.
        quantity: What the series are of, with its unit.
        series: The evidence.
        details: Numbers by name.
    """

    name: str
    statement: str
    origin: str
    predicted: str
    observed: str
    verdict: Judged
    quantity: str
    series: tuple[Series, ...]
    details: dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """How the claims are tested; the defaults take less than two minutes on two cores.

    Attributes:
        widths: Of the hidden layers, at least three, rising.
        num_seeds: Networks at each width, at least three.
        num_hidden: Hidden layers.
        num_outputs: Outputs K.
        activations: Each is tested.
        horizon: Time of gradient flow for claims of constancy.
        num_records: Looks at a trajectory.
    """

    widths: tuple[int, ...] = (64, 256, 1024, 4096)
    num_seeds: int = 5
    num_hidden: int = 1
    num_outputs: int = 2
    activations: tuple[str, ...] = ("tanh", "relu")
    horizon: float = 2.0
    num_records: int = 20

    def __post_init__(self) -> None:
        if len(self.widths) < 3 or list(self.widths) != sorted(set(self.widths)):
            raise BadArrayError(f"verify needs three rising widths or more to fit an exponent, got {self.widths}.")
        if self.num_seeds < 3:
            raise BadArrayError(f"verify needs three seeds or more for an interval, got {self.num_seeds}.")

    def network(self, width: int, activation: str) -> Network:
        """A network of this setup.

        Args:
            width: M.
            activation: Of its hidden units.

        Returns:
            Its shape.
        """
        return Network(width, self.num_outputs, self.num_hidden, activation)  # pyright: ignore[reportArgumentType]


def networks(key: jax.Array, setup: Setup, network: Network, num_inputs: int) -> Params:
    """As many networks as there are seeds, stacked.

    Args:
        key: Random key.
        setup: How many seeds.
        network: Their shape.
        num_inputs: Features of the points.

    Returns:
        Parameters with a leading axis of seeds, float64.
    """
    keys = jax.random.split(jax.random.fold_in(key, network.width), setup.num_seeds)
    return jax.vmap(lambda one: init(one, network, num_inputs, jnp.float64))(keys)


def one_of(params: Params, seed: int) -> Params:
    """One of several stacked networks.

    Args:
        params: From ``networks``.
        seed: Its number.

    Returns:
        Its parameters.
    """
    return jax.tree.map(lambda leaf: leaf[seed], params)


def flows(
    params: Params, x: jax.Array, setup: Setup, network: Network, objective: Objective, horizon: float,
    num_substeps: int, *, num_records: int | None = None,
) -> Trajectory:  # fmt: skip
    """Gradient flow of several networks, one after the other.

    Args:
        params: From ``networks``.
        x: Points.
        setup: How often to look.
        network: Their shape.
        objective: The loss.
        horizon: Time at the end.
        num_substeps: Runge-Kutta steps between two looks.
        num_records: Looks, if not those of the setup.

    Returns:
        Trajectories with a leading axis of seeds.
    """
    run = partial(
        gradient_flow, x=x, network=network, objective=objective, horizon=horizon,
        num_records=num_records or setup.num_records, num_substeps=num_substeps,
    )  # fmt: skip
    # One after the other: at large widths the networks of all seeds together do not fit into the caches.
    return jax.lax.map(lambda one: run(one), params)


def interval_told(slope: Slope, digits: int = 2) -> str:
    """A slope with its interval, in words.

    Args:
        slope: Fitted.
        digits: After the point.

    Returns:
        "-0.94 (-0.98 to -0.89)".
    """
    return f"{slope.value:.{digits}f} ({slope.low:.{digits}f} to {slope.high:.{digits}f})"
