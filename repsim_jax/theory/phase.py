"""At which width, after which time, and with which learning rate does a network stop being its kernel?"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.theory.architectures import Encoder
from repsim_jax.theory.claims import Told
from repsim_jax.theory.descent import Descended, Optimizer, descend
from repsim_jax.theory.exponents import exponent
from repsim_jax.theory.networks import Activation, Network
from repsim_jax.theory.objectives import Objective
from repsim_jax.theory.triplets import Triplets

# Relative change of the kernel from which a network counts as having left it, as in the claim on dot products.
RICH = 0.1
LOSSES = (
    Objective("linear", "dot"),
    Objective("spectral_batch", "dot"),
    Objective("spectral", "dot"),
    Objective("logistic", "dot"),
    Objective("linear", "cosine"),
    Objective("infonce", "cosine"),
    Objective("barlow_twins", "cosine"),
)
REGIMES = ("lazy", "rich", "diverged", "within a step")
# A look that is as far from its time, or a rate as far from the one asked, is of another cell.
_OFF = 0.3


class PhaseDiagram(NamedTuple):
    """The change of the tangent kernel over losses, widths, learning rates, times and seeds.

    Attributes:
        losses: (l,) names.
        widths: (w,).
        rates: (r,) relative to the largest stable one at the start.
        times: (t,) steps times the learning rate.
        change: (l, w, r, t, s) relative Frobenius change of the kernel since the start.
        loss: (l, w, r, t, s) divided by the size of its value at the start: above the sign of it, the loss has risen.
        stable_rates: (l, w, s) the largest stable rate at the start.
        regimes: (l, w, r, t) of most seeds: "lazy", a change below 0.1; "rich", of 0.1 or more; "diverged", not finite
            or with a loss above that at the start; "within a step", where one step takes longer than this time.
        exponents: (l, r, t, 3) of the change in the width, with the ends of its 95 % interval over seeds; NaN where
            some width has diverged or made no step.
    """

    losses: tuple[str, ...]
    widths: tuple[int, ...]
    rates: tuple[float, ...]
    times: tuple[float, ...]
    change: np.ndarray
    loss: np.ndarray
    stable_rates: np.ndarray
    regimes: np.ndarray
    exponents: np.ndarray


def phase_diagram(
    key: jax.Array,
    given: Triplets,
    *,
    losses: Sequence[Objective] = LOSSES,
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    rates: Sequence[float] = (1 / 16, 1 / 4, 1.0),
    num_seeds: int = 5,
    num_outputs: int = 8,
    num_hidden: int = 1,
    activation: Activation = "tanh",
    first_time: float = 0.25,
    horizon: float = 64.0,
    num_records: int = 9,
    on_progress: Told | None = None,
) -> PhaseDiagram:
    """Trains networks by gradient descent and maps where their kernel changes.

    A program is compiled for each width; losses, temperatures and rates are numbers in it.

    Args:
        key: Random key; networks of one width start alike under all losses and rates.
        given: From ``triplets``.
        losses: Of each a part of the diagram; temperatures are those of the objectives.
        widths: At least two, rising.
        rates: Rising, relative to the largest stable rate at the start.
        num_seeds: Networks in each cell.
        num_outputs: Outputs K.
        num_hidden: Hidden layers.
        activation: Of hidden units.
        first_time: Of the first look.
        horizon: Of the last.
        num_records: Looks, at geometric times.
        on_progress: Called with a line for each width and loss.

    Returns:
        The diagram, computed in float64.

    Raises:
        BadArrayError: If widths, rates or times do not rise, or there are too few.
    """
    _checked(losses, widths, rates)
    if not 0 < first_time < horizon < np.inf:
        raise BadArrayError(f"phase_diagram needs 0 < first_time < horizon, got {first_time!r} and {horizon!r}.")
    told = on_progress or (lambda _: None)
    bare = tuple(Objective(one.loss, one.similarity) for one in losses)
    times = np.geomspace(first_time, horizon, num_records)
    runs = []
    with enable_x64():
        x = jnp.asarray(given.points)
        for width in widths:
            encoder = Encoder(Network(width, num_outputs, num_hidden, activation))
            for which, one in enumerate(losses):
                told(f"{one.name}, width {width}")
                runs += [
                    descend(
                        key, x, encoder=encoder, optimizer=Optimizer(), losses=bare, num_seeds=num_seeds,
                        num_records=num_records, which=which, temperature=one.temperature, rate=float(rate),
                        horizon=float(horizon), first_time=float(first_time),
                    )
                    for rate in rates
                ]  # fmt: skip
    return _drawn_together(runs, losses, widths, rates, times)


def _checked(losses: Sequence[Objective], widths: Sequence[int], rates: Sequence[float]) -> None:
    if not losses:
        raise BadArrayError("phase_diagram needs a loss or more, got none.")
    if len(widths) < 2 or list(widths) != sorted(set(widths)):
        raise BadArrayError(f"phase_diagram needs two rising widths or more, got {tuple(widths)}.")
    if not rates or list(rates) != sorted(set(rates)) or rates[0] <= 0:
        raise BadArrayError(f"phase_diagram needs rising learning rates > 0, got {tuple(rates)}.")


def _drawn_together(
    runs: list[Descended], losses: Sequence[Objective], widths: Sequence[int], rates: Sequence[float], times: np.ndarray
) -> PhaseDiagram:
    """Runs in the order of widths, losses and rates as one diagram."""
    shape = len(widths), len(losses), len(rates)

    def stacked(name: str) -> np.ndarray:
        array = np.asarray([np.asarray(getattr(run, name)) for run in runs])
        return array.reshape(*shape, *array.shape[1:]).swapaxes(0, 1)  # (l, w, r, s, ...)

    change, loss, reached = (stacked(name).swapaxes(3, 4) for name in ("change", "loss", "times"))
    start, asked = stacked("start_loss")[..., None, :], np.asarray(rates)[:, None]
    relative = loss / np.abs(start)
    diverged = ~(np.isfinite(change) & np.isfinite(loss)) | (loss > start + 1e-9 * np.abs(start))
    off = np.abs(reached / times[:, None] - 1) > _OFF
    off |= (np.abs(stacked("rate") / asked - 1) > _OFF)[..., None, :]
    regimes = regimes_of(change, diverged, off)
    return PhaseDiagram(
        losses=tuple(one.name if one.temperature == 1 else f"{one.name}, temperature {one.temperature:g}"
                     for one in losses),
        widths=tuple(widths), rates=tuple(map(float, rates)), times=tuple(times.tolist()), change=change,
        loss=relative, stable_rates=stacked("stable_rate")[:, :, 0], regimes=regimes,
        exponents=exponents_of(widths, change, regimes),
    )  # fmt: skip


def regimes_of(change: np.ndarray, diverged: np.ndarray, off: np.ndarray) -> np.ndarray:
    """The regime of each cell in words.

    Args:
        change: (..., s) of the kernel; what is not finite counts as diverged.
        diverged: (..., s).
        off: (..., s) whether there was no look at that time and rate.

    Returns:
        (...) from ``REGIMES``: that of most seeds; where lazy and rich seeds are as many, that of their median.
    """
    change = np.where(diverged | ~np.isfinite(change), np.inf, change)
    middle = np.median(np.nan_to_num(change, posinf=np.finfo(float).max / 4), axis=-1)
    names = np.where(middle < RICH, "lazy", "rich").astype("<U16")
    names[np.isinf(change).mean(-1) >= 0.5] = "diverged"
    names[off.mean(-1) > 0.5] = "within a step"
    return names


def exponents_of(widths: Sequence[int], change: np.ndarray, regimes: np.ndarray) -> np.ndarray:
    """Exponents of the change in the width, at each loss, rate and time.

    Args:
        widths: (w,).
        change: (l, w, r, t, s).
        regimes: (l, w, r, t).

    Returns:
        (l, r, t, 3) value and both ends of the interval; NaN where a width is neither lazy nor rich.
    """
    found = np.full((change.shape[0], *change.shape[2:4], 3), np.nan)
    for place in np.ndindex(*found.shape[:-1]):
        loss, rate, time = place
        values, words = change[loss, :, rate, time], regimes[loss, :, rate, time]
        if np.isin(words, ("lazy", "rich")).all() and np.isfinite(values).all() and (values > 0).all():
            slope = exponent(np.random.default_rng(0), np.asarray(widths), values)
            found[place] = slope.value, slope.low, slope.high
    return found
