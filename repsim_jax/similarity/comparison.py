"""The result of comparing two sets of layers: a tidy table, a row per layer pair and measure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repsim_jax.errors import UnknownNameError

if TYPE_CHECKING:
    import pandas
    import pyarrow


class Row(NamedTuple):
    """One line of the table: one measure of one layer pair."""

    layer_a: str
    layer_b: str
    measure: str
    value: float
    num_examples: int
    width_a: int
    width_b: int


class ByExample(NamedTuple):
    """How alike two versions of a model see each single example, by a measure that can tell.

    Attributes:
        measure: Its name, as registered; higher is more alike.
        layers: Names of the layers that both versions have.
        ids: Of the examples.
        scores: (layers, examples), each layer with its namesake in the other version.
        chance: What unrelated rows score on average; None where that is not known.
    """

    measure: str
    layers: tuple[str, ...]
    ids: tuple[str, ...]
    scores: np.ndarray
    chance: float | None

    def changed_most(self, most: int) -> list[tuple[str, float]]:
        """The examples that the versions see most differently.

        Args:
            most: At most how many.

        Returns:
            Id and mean score over the layers, lowest first.
        """
        means = self.scores.mean(axis=0)
        return [(self.ids[i], float(means[i])) for i in np.argsort(means, kind="stable")[:most]]


@dataclass(frozen=True)
class Comparison:
    """All layer pairs of two models under several measures.

    Attributes:
        name_a: What the first set of layers is called (a store, a model, or "x").
        name_b: What the second is called.
        layers_a: Names of the first model's layers, in depth order.
        layers_b: Names of the second model's layers, in depth order.
        measures: Names of the measures, as registered.
        values: (measures, layers_a, layers_b), float64; every entry finite.
        num_examples: Rows that were compared.
        widths_a: Features of each layer of the first model.
        widths_b: Features of each layer of the second.
        notes: What a reader must know before concluding, in plain sentences (few rows, biased estimator, ...).
        settings: What else produced the values (versions, options), JSON-serializable.
        by_example: Scores of single examples, where two versions of a model were compared by a learned measure.
    """

    name_a: str
    name_b: str
    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    measures: tuple[str, ...]
    values: np.ndarray
    num_examples: int
    widths_a: tuple[int, ...]
    widths_b: tuple[int, ...]
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    by_example: ByExample | None = None

    def matrix(self, measure: str) -> np.ndarray:
        """Values of one measure as a (layers_a, layers_b) array.

        Args:
            measure: One of ``measures``.

        Returns:
            A float64 array, rows in the order of ``layers_a``.

        Raises:
            UnknownNameError: If the measure was not computed.
        """
        if measure not in self.measures:
            raise UnknownNameError.of("measured value", measure, self.measures)
        return self.values[self.measures.index(measure)]

    def rows(self) -> Iterator[Row]:
        """The tidy table, line by line: measures outermost, then layers of a, then layers of b."""
        for measure, matrix in zip(self.measures, self.values, strict=True):
            for i, layer_a in enumerate(self.layers_a):
                for j, layer_b in enumerate(self.layers_b):
                    yield Row(
                        layer_a,
                        layer_b,
                        measure,
                        float(matrix[i, j]),
                        self.num_examples,
                        self.widths_a[i],
                        self.widths_b[j],
                    )

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    def __len__(self) -> int:
        return int(self.values.size)

    def to_pandas(self) -> "pandas.DataFrame":
        """The tidy table as a pandas DataFrame.

        Returns:
            A frame with the fields of ``Row`` as columns.

        Raises:
            MissingPackageError: If pandas is not installed.
        """
        pandas = _table_package("pandas")
        return pandas.DataFrame(list(self.rows()), columns=list(Row._fields))

    def to_arrow(self) -> "pyarrow.Table":
        """The tidy table as a pyarrow Table.

        Returns:
            A table with the fields of ``Row`` as columns.

        Raises:
            MissingPackageError: If pyarrow is not installed.
        """
        pyarrow = _table_package("pyarrow")
        return pyarrow.Table.from_pylist([row._asdict() for row in self.rows()])


def _table_package(name: str) -> Any:
    from importlib import import_module

    from repsim_jax.errors import MissingPackageError

    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError.of(name, "to export the table", "table") from error
