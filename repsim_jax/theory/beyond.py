"""What becomes of the tangent kernel where the theory ends? One change at a time, against what it covers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.theory.architectures import Encoder, Normalization
from repsim_jax.theory.claims import Claim, Judged, Series, Setup, Told, interval_told
from repsim_jax.theory.descent import Descended, Method, Optimizer, descend
from repsim_jax.theory.exponents import Slope, exponent
from repsim_jax.theory.networks import Activation, Network
from repsim_jax.theory.objectives import Objective
from repsim_jax.theory.triplets import Triplets

# An exponent above this is called no improvement: from one width to the sixteenfold, less than a quarter off.
_FLAT = -0.1
# Of Adam, at the width where all powers of the width give the same.
_ADAM_RATE, _ANCHOR_WIDTH = 0.01, 64
# Exponents are about wide networks; narrow ones may have changed as much as they can.
_WIDEST = 3


@dataclass(frozen=True)
class Variation:
    """One way to leave the setting of the theory; the defaults are that setting.

    Attributes:
        label: What to call it.
        num_hidden: Hidden layers.
        activation: Of hidden units; None: that of the setup.
        normalization: Of pre-activations.
        convolutional: Whether the hidden layers are convolutions.
        narrowing: What the widths of the setup are divided by, for networks that cost more than the square of theirs.
        method: Of the optimizer.
        width_power: The rate of Adam is 0.01 at a width of 64, and falls with the width to this power.
        num_batches: Minibatches that all triplets make, each of two at least; 1: no minibatches.
        temperature: Of the loss.
        rate: Learning rate relative to the largest stable one at the start.
    """

    label: str
    num_hidden: int = 1
    activation: Activation | None = None
    normalization: Normalization = "none"
    convolutional: bool = False
    narrowing: int = 1
    method: Method = "descent"
    width_power: float = 0.5
    num_batches: int = 1
    temperature: float = 1.0
    rate: float = 0.1


BASE = Variation("theory: one hidden layer, small steps")
VARIATIONS = (
    Variation("learning rate at the edge", rate=1.0),
    Variation("learning rate twice the edge", rate=2.0),
    Variation("temperature 0.3", temperature=0.3),
    Variation("temperature 0.1", temperature=0.1),
    Variation("ReLU", activation="relu"),
    Variation("two hidden layers", num_hidden=2, narrowing=4),
    Variation("three hidden layers", num_hidden=3, narrowing=4),
    Variation("convolutions", num_hidden=2, convolutional=True, narrowing=32),
    Variation("LayerNorm", normalization="layer"),
    Variation("BatchNorm", normalization="batch"),
    Variation("minibatches of a quarter", num_batches=4),
    Variation("momentum", method="momentum"),
    Variation("Adam, one rate for all widths", method="adam", width_power=0.0),
    Variation("Adam, rate like M^-1/2", method="adam", width_power=0.5),
    Variation("Adam, rate like 1/M", method="adam", width_power=1.0),
)


def beyond_the_theory(
    key: jax.Array,
    given: Triplets,
    setup: Setup,
    told: Told,
    *,
    images: Triplets | None = None,
    image_shape: tuple[int, int, int] | None = None,
    objective: Objective = Objective("infonce", "cosine"),  # noqa: B008 (frozen)
    variations: Sequence[Variation] = VARIATIONS,
) -> Claim:
    """Does the kernel's change still shrink with the width where the theory does not say so?

    Every setting is trained over the same time: steps times the rate of gradient descent, and for Adam steps times a
    constant. Exponents are fitted to the three widest networks.

    Args:
        key: Random key.
        given: From ``triplets``.
        setup: Widths, seeds, outputs, the first activation, and the time of training.
        told: Takes lines of progress.
        images: The same triplets from ``image_triplets``, for convolutional networks; None leaves those out.
        image_shape: (height, width, channels) of these.
        objective: The loss; its temperature is that of the variation.
        variations: Against ``BASE``, which comes first.

    Returns:
        The claim, computed in float64; a verdict for each variation stands in its details.

    Raises:
        BadArrayError: If there are images without a shape.
    """
    if (images is None) != (image_shape is None):
        raise BadArrayError("beyond_the_theory needs both images and image_shape for convolutional networks, or none.")
    chosen = [BASE, *(one for one in variations if not one.convolutional or images is not None)]
    series, details = [], {}
    for one in chosen:
        points, shape = (images, image_shape) if one.convolutional and images is not None else (given, None)
        runs = _runs(key, points, setup, told, one, objective, shape)
        series.append(_series(one, setup, list(runs), list(runs.values())))
        details[one.label] = _told(series[-1], list(runs.values()))
    flat = [one.label for one in series if details[one.label]["verdict"] != "shrinks with the width"]
    return Claim(
        name="beyond the theory",
        statement="Away from one smooth hidden layer, small steps and all data at once, the tangent kernel still "
        "changes the less the wider the network.",
        origin="our measurement",
        predicted="exponent of the change in the width below 0 in every setting",
        observed=_observed(series, flat, details),
        verdict=_verdict([details[one.label]["verdict"] for one in series]),
        quantity=f"relative change of the tangent kernel at t = {setup.horizon:g}",
        series=tuple(series),
        details=details,
    )


def _runs(
    key: jax.Array, points: Triplets, setup: Setup, told: Told, one: Variation, objective: Objective,
    shape: tuple[int, int, int] | None,
) -> dict[int, Descended]:  # fmt: skip
    """Training at every width, by the width (or the channels)."""
    batch_size = None if one.num_batches == 1 else max(2, points.num_triplets // one.num_batches)
    optimizer = Optimizer(one.method, batch_size)
    losses = (Objective(objective.loss, objective.similarity),)
    runs = {}
    with enable_x64():
        x = jnp.asarray(points.points)
        for width in setup.widths:
            units = max(2, width // one.narrowing)
            told(f"{one.label}, width {units}")
            network = Network(units, setup.num_outputs, one.num_hidden, one.activation or _first(setup))
            runs[units] = descend(
                key, x, encoder=Encoder(network, one.normalization, shape), optimizer=optimizer, losses=losses,
                num_seeds=setup.num_seeds, num_records=1, temperature=one.temperature, rate=one.rate,
                adam_rate=_ADAM_RATE * (_ANCHOR_WIDTH / units) ** one.width_power,
                horizon=float(setup.horizon), first_time=float(setup.horizon),
            )  # fmt: skip
    return runs


def _first(setup: Setup) -> Activation:
    return setup.activations[0]  # pyright: ignore[reportReturnType]


def _series(one: Variation, setup: Setup, widths: list[int], runs: list[Descended]) -> Series:
    values = np.asarray([np.asarray(run.change[:, -1]) for run in runs])
    slope = None
    if np.isfinite(values).all() and len(widths) == len(setup.widths):
        slope = exponent(np.random.default_rng(0), np.asarray(widths[-_WIDEST:]), values[-_WIDEST:])
    return Series(one.label, tuple(widths), values, slope)


def _told(one: Series, runs: list[Descended]) -> dict[str, Any]:
    """Verdict and circumstances of one variation."""
    return {
        "verdict": shrinking(one.slope),
        "widths": list(one.widths),
        "change, median over seeds": np.median(one.values, axis=1).tolist(),
        "loss at the end over loss at the start, median": [
            float(np.median(np.asarray(run.loss[:, -1] / run.start_loss))) for run in runs
        ],
        "largest stable rate, median": [float(np.median(np.asarray(run.stable_rate))) for run in runs],
        "steps, median": [int(np.median(np.asarray(run.num_steps))) for run in runs],
    }


def shrinking(slope: Slope | None) -> str:
    """What an exponent and its interval say.

    Args:
        slope: None where training diverged.

    Returns:
        "shrinks with the width", "does not shrink with the width", "undecided" or "diverged".
    """
    if slope is None:
        return "diverged"
    if slope.low > _FLAT:
        return "does not shrink with the width"
    return "shrinks with the width" if slope.high < 0 else "undecided"


def _verdict(verdicts: list[str]) -> Judged:
    if all(one == "shrinks with the width" for one in verdicts):
        return "holds"
    return "undecided" if all(one in ("shrinks with the width", "undecided") for one in verdicts) else "does not hold"


def _observed(series: list[Series], flat: list[str], details: dict[str, Any]) -> str:
    exceptions = "; ".join(f"{label}: {details[label]['verdict']}" for label in flat)
    told = ", ".join(f"{one.label} {interval_told(one.slope)}" for one in series if one.slope is not None)
    lead = f"not so: {exceptions}" if flat else "shrinks in every setting"
    return f"{lead}. Exponents: {told}"
