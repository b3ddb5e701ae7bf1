"""Named layers of one model over the same examples, in memory or in a store, with one way to read both."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from repsim_jax.activations.reader import Store
from repsim_jax.errors import BadArrayError, UnknownNameError


class Layers(NamedTuple):
    """Layers of one model.

    Attributes:
        name: What to call the model in tables and plots.
        layers: Layer name to array with leading axis n, in depth order; or a store.
        ids: n unique strings, or None where the source had none.
    """

    name: str
    layers: Mapping[str, np.ndarray] | Store
    ids: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, in depth order."""
        return self.layers.layers if isinstance(self.layers, Store) else tuple(self.layers)

    @property
    def num_examples(self) -> int:
        """Rows n of every layer."""
        if isinstance(self.layers, Store):
            return self.layers.num_examples
        return next((len(array) for array in self.layers.values()), 0)

    def width(self, layer: str) -> int:
        """Features d of one layer.

        Args:
            layer: One of ``names``.

        Returns:
            Its width.

        Raises:
            UnknownNameError: If there is no such layer.
            BadArrayError: If the layer is not (n, d).
        """
        return self.layers.width(layer) if isinstance(self.layers, Store) else self._matrix(layer).shape[1]

    def read(self, layer: str, rows: slice | np.ndarray | None = None) -> np.ndarray:
        """Rows of one layer.

        Args:
            layer: One of ``names``.
            rows: A slice, an integer array of row numbers, or None for all rows.

        Returns:
            (rows, d), in the dtype that the layer has.

        Raises:
            UnknownNameError: If there is no such layer.
            BadArrayError: If the layer is not (n, d): it needs a layout first.
            CorruptFileError: If a stored chunk is missing or not what was written.
        """
        if isinstance(self.layers, Store):
            return self.layers.read(layer, rows)
        array = self._matrix(layer)
        return array if rows is None else array[rows]

    def _matrix(self, layer: str) -> np.ndarray:
        if isinstance(self.layers, Store) or layer not in self.layers:
            raise UnknownNameError.of("layer", layer, self.names)
        array = self.layers[layer]
        if array.ndim != 2:
            advice = (
                "Choose what a row is: a layout policy (spatial mean, CLS token, flatten), or x.reshape(len(x), -1)."
            )
            raise BadArrayError(f"layer {layer!r} must be (examples, features): got shape {array.shape}. {advice}")
        return array
