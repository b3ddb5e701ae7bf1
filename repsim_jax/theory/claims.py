"""A claim of the theory, how it is put to the test, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.errors import BadArrayError
from repsim_jax.theory.courses import Course
from repsim_jax.theory.exponents import Slope
from repsim_jax.theory.networks import Network, Params, init

# Beyond it the weights of one hidden layer fill the memory of a machine.
_WIDEST = 2**20
Told = Callable[[str], None]
Judged = Literal["holds", "holds until", "does not hold", "undecided"]


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
        verdict: In a word or two; "holds until" a time, which is in ``until``.
        quantity: What the series are of, with its unit.
        series: The evidence over widths.
        details: Numbers by name.
        courses: The evidence over widths and times, where there is any.
        until: Time of gradient flow.
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
    courses: tuple[Course, ...] = ()
    until: float | None = None

    @property
    def verdict_told(self) -> str:
        """The verdict with its time: "holds until t = 4"."""
        return self.verdict if self.until is None else f"{self.verdict} t = {self.until:.3g}"


@dataclass(frozen=True)
class Setup:
    """How the claims are tested; the defaults take less than two minutes on two cores.

    Attributes:
        widths: Of the hidden layers, at least three, rising.
        num_seeds: Networks at each width, at least three.
        num_hidden: Hidden layers.
        num_outputs: Outputs K.
        num_components: Outputs of the networks that are held against principal components.
        activations: Each is tested.
        horizon: Time of gradient flow for claims of constancy.
        num_times: Looks at a trajectory, evenly in the logarithm of time, the first at 1/512 of the horizon.
    """

    widths: tuple[int, ...] = (64, 256, 1024, 4096)
    num_seeds: int = 5
    num_hidden: int = 1
    num_outputs: int = 16
    num_components: int = 2
    activations: tuple[str, ...] = ("tanh", "relu")
    horizon: float = 16.0
    num_times: int = 10

    def __post_init__(self) -> None:
        if len(self.widths) < 3 or list(self.widths) != sorted(set(self.widths)):
            raise BadArrayError(f"verify needs three rising widths or more to fit an exponent, got {self.widths}.")
        if self.num_seeds < 3:
            raise BadArrayError(f"verify needs three seeds or more for an interval, got {self.num_seeds}.")
        if self.widths[-1] > _WIDEST:
            raise BadArrayError(f"verify follows widths up to {_WIDEST:,}, got {self.widths[-1]:,}.")
        for activation in self.activations:
            self.network(self.widths[0], activation)  # refuses what no network can be
        if not 1 <= self.num_components < self.widths[0]:
            raise BadArrayError(
                f"verify needs 1 <= num_components < the smallest width {self.widths[0]}, got {self.num_components}."
            )
        if not 0 < self.horizon < float("inf") or self.num_times < 3:
            raise BadArrayError(
                f"verify needs a horizon > 0 and three times or more, got {self.horizon!r} and {self.num_times!r}."
            )

    @property
    def times(self) -> np.ndarray:
        """(t,) of the looks."""
        return np.geomspace(self.horizon / 512, self.horizon, self.num_times)

    def network(self, width: int, activation: str, num_outputs: int | None = None) -> Network:
        """A network of this setup.

        Args:
            width: M.
            activation: Of its hidden units.
            num_outputs: If not those of the setup.

        Returns:
            Its shape.
        """
        return Network(width, num_outputs or self.num_outputs, self.num_hidden, activation)  # pyright: ignore[reportArgumentType]


def start_of(key: jax.Array, network: Network, num_inputs: int, seed: int) -> Params:
    """The weights that a network starts from.

    Args:
        key: Random key.
        network: Its shape.
        num_inputs: Features of the points.
        seed: Its number.

    Returns:
        Parameters, float64 where that is on.
    """
    folded = jax.random.fold_in(jax.random.fold_in(key, network.width), seed)
    return init(folded, network, num_inputs, jnp.result_type(float))


def interval_told(slope: Slope, digits: int = 2) -> str:
    """A slope with its interval, in words.

    Args:
        slope: Fitted.
        digits: After the point.

    Returns:
        "-0.94 (-0.98 to -0.89)".
    """
    return f"{slope.value:.{digits}f} ({slope.low:.{digits}f} to {slope.high:.{digits}f})"
