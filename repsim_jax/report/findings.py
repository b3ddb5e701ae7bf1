"""What a comparison says, worked out once for the terminal, the pictures, the words and the page."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repsim_jax.evaluation.agreement import Disagreement, disagreements, mean_agreement, rank_correlations
from repsim_jax.evaluation.matching import BestLayers, Path, best_layers, best_path

if TYPE_CHECKING:
    from repsim_jax.similarity.comparison import Comparison

# Read first where it was computed: its expectation for unrelated representations is 0 at any n and width.
PREFERRED_LEAD = "linear_cka_unbiased"


class MeasureReading(NamedTuple):
    """One measure of one comparison.

    Attributes:
        name: As registered.
        title: In words.
        range: Smallest and largest possible value.
        larger_is_more_similar: Its direction.
        invariances: What it does not see, as registered.
        matrix: (la, lb) values.
        best: Nearest layer of the second model for each of the first.
        path: The best order-keeping correspondence.
        agreement: Mean rank correlation with the other measures; NaN where it is the only one.
    """

    name: str
    title: str
    range: tuple[float, float]
    larger_is_more_similar: bool
    invariances: tuple[str, ...]
    matrix: np.ndarray
    best: BestLayers
    path: Path
    agreement: float

    @property
    def direction(self) -> str:
        """Which way to read the numbers."""
        return "higher = more alike" if self.larger_is_more_similar else "lower = more alike"


class Digest(NamedTuple):
    """A comparison with everything that the report says about it.

    Attributes:
        comparison: The table itself.
        readings: One per measure, in the order of the table.
        lead: The reading that the headline rests on.
        correlations: (measures, measures) rank correlations over layer pairs.
        disagreements: Layer pairs on which measures part most.
    """

    comparison: "Comparison"
    readings: tuple[MeasureReading, ...]
    lead: MeasureReading
    correlations: np.ndarray
    disagreements: tuple[Disagreement, ...]

    @property
    def ranked(self) -> tuple[MeasureReading, ...]:
        """Readings from the one that agrees most with the others to the one that agrees least."""
        return tuple(sorted(self.readings, key=lambda one: -np.nan_to_num(one.agreement, nan=-2.0)))

    @property
    def mean_correlation(self) -> float:
        """Mean rank correlation over pairs of different measures; NaN where none is defined."""
        above = self.correlations[np.triu_indices(len(self.readings), 1)]
        return float(np.mean(above[np.isfinite(above)])) if np.isfinite(above).any() else float("nan")


def digest(comparison: "Comparison") -> Digest:
    """Works out best layers, paths and the agreement of measures.

    Args:
        comparison: At least one layer of each model and one registered measure.

    Returns:
        The digest.

    Raises:
        UnknownNameError: If a measure of the comparison is not registered, so that its direction is unknown.
    """
    from repsim_jax import similarity

    known = {name: similarity.measure(name) for name in comparison.measures}
    larger = tuple(bool(known[name].larger_is_more_similar) for name in comparison.measures)
    correlations = rank_correlations(comparison.values, larger)
    agreement = mean_agreement(correlations)
    readings = []
    for k, name in enumerate(comparison.measures):
        measure, matrix = known[name], comparison.matrix(name)
        best = best_layers(matrix, larger_is_more_similar=larger[k])
        path = best_path(matrix, larger_is_more_similar=larger[k])
        invariances = tuple(sorted(map(str, measure.invariances)))
        limits = (float(measure.range[0]), float(measure.range[1]))
        readings.append(
            MeasureReading(
                name, str(measure.title), limits, larger[k], invariances, matrix, best, path, float(agreement[k])
            )
        )
    lead = next((one for one in readings if one.name == PREFERRED_LEAD), readings[0])
    lead = readings[0] if known[readings[0].name].learned else lead
    return Digest(comparison, tuple(readings), lead, correlations, disagreements(comparison.values, larger, top=8))
