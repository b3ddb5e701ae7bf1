"""May a fitted measure judge these two, and on which rows? Lets it stand beside closed-form ones in ``compare``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from repsim_jax.activations.layers import Layers
from repsim_jax.errors import AlignmentError, BadArrayError, UnknownNameError
from repsim_jax.similarity.comparison import ByExample
from repsim_jax.similarity.contrasim.diagnosis import Accuracy
from repsim_jax.similarity.contrasim.fitting import weights_of
from repsim_jax.similarity.contrasim.measure import ContraSim
from repsim_jax.similarity.contrasim.scoring import example_scores, score_pairs
from repsim_jax.similarity.inputs import checked_layers
from repsim_jax.similarity.registry import Measure, measure

OnSeen = Literal["raise", "drop", "keep"]


@dataclass(frozen=True, eq=False)
class Learned:
    """A fitted measure for ``compare(a, b, measures=["linear_cka_unbiased", Learned(fitted)])``.

    Rows are looked up by example id: the measure's anchors are read from both sides and left out of what is scored. A
    side is known if the weights of its store are those of a fitted source, or, where no store tells, if it has the name
    of one and its widths (a store "NAME.store" counts as NAME). A source that the fit held out counts as known: it was
    tested on.

    Attributes:
        measure: From ``fit`` or ``load``.
        allow_unfitted: Whether to score sides that took no part in the fit, with a note that says so. Never for
            projected input, which has no map for them.
        on_seen: What to do about rows that the measure was trained on, on which it looks better than it is: ``raise``,
            ``drop`` them, or ``keep`` them, with a note that says so.
        examples: ``examples(id)`` names the example that a row shows, where the fit was given such a function.
    """

    measure: ContraSim
    allow_unfitted: bool = False
    on_seen: OnSeen = "raise"
    examples: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        if self.on_seen not in ("raise", "drop", "keep"):
            raise UnknownNameError.of("choice of on_seen", str(self.on_seen), ("raise", "drop", "keep"))

    @property
    def descriptor(self) -> Measure:
        """The entry of learned measures in the registry."""
        return measure("contrasim")

    @property
    def settings(self) -> dict[str, Any]:
        """What is known about the measure, JSON-serializable."""
        found = self.measure.diagnosis
        told: dict[str, Any] = {"options": self.measure.options.to_json(), "fitted on": list(self.measure.sources)}
        if found is not None:
            told["accuracy on fitted sources"] = found.seen.share
            told["accuracy on held-out sources"] = None if found.unseen is None else found.unseen.share
            told |= {"chance level of scores": found.chance_mean, "95 % of chance below": found.chance_high}
        return told

    def rows(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the matched rows on which the measure may be scored.

        Args:
            a: One side.
            b: The other.
            rows_a: Row numbers of the examples to be compared.
            rows_b: Row numbers of the same examples in b.

        Returns:
            The rows that are neither anchors nor, where they are to be dropped, training examples.

        Raises:
            UnknownNameError: If a side is of a source that the measure was not fitted for, and that is not allowed.
            AlignmentError: If a side has no ids, or an anchor is missing.
            BadArrayError: If rows were trained on and nothing was said about them, or fewer than two rows are left.
        """
        for side in (a, b):
            self._check_source(side)
        if self.measure.anchor_ids:
            for side in (a, b):
                self._anchor_rows(side)
        ids = self._ids(a, rows_a)
        if ids is None:
            return rows_a, rows_b
        anchors = np.isin(np.asarray(ids, object), np.asarray(self.measure.anchor_ids, object))
        seen = self.measure.trained_on(ids) & ~anchors
        if seen.any() and self.on_seen == "raise":
            raise BadArrayError(
                f"contrasim was trained on {seen.sum()} of these {len(ids)} examples (the first is "
                f"{ids[int(seen.argmax())]!r}), and scores on them flatter. Compare other examples, or say "
                f"on_seen='drop' ({(~seen & ~anchors).sum()} are left) or 'keep'; on the command line --seen drop or "
                "--seen keep."
            )
        left = ~anchors & ~seen if self.on_seen == "drop" else ~anchors
        if left.sum() < self.descriptor.min_rows:
            raise BadArrayError(
                f"contrasim has {left.sum()} of {len(ids)} rows left to score: {anchors.sum()} are anchors, "
                f"{seen.sum()} were trained on. Compare on examples that the fit has not seen."
            )
        return rows_a[left], rows_b[left]

    def scores(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
        """Scores all layer pairs.

        Args:
            a: One side.
            b: The other.
            rows_a: From ``rows``.
            rows_b: From ``rows``.

        Returns:
            (L_A, L_B) scores in [-1, 1].

        Raises:
            BadArrayError: If a layer holds NaN or infinity, is constant, or has another width than was fitted.
            UnknownNameError: For projected input, if a layer was not fitted.
        """
        return np.asarray(score_pairs(self.measure, **self._inputs(a, b, rows_a, rows_b)), np.float64)

    def by_example(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> ByExample | None:
        """Scores each example, where both sides have the same layers: what changed between two versions of a model?

        Args:
            a: One side.
            b: The other.
            rows_a: From ``rows``.
            rows_b: From ``rows``.

        Returns:
            Each layer with its namesake; None where the sides differ in layers or widths, or the measure compares
            whole sets only.
        """
        widths = [tuple(side.width(layer) for layer in side.names) for side in (a, b)]
        if a.names != b.names or widths[0] != widths[1] or self.measure.options.objective == "deep_cka":
            return None
        scores = example_scores(self.measure, **self._inputs(a, b, rows_a, rows_b))
        ids = [str(row) for row in rows_a] if a.ids is None else [a.ids[row] for row in rows_a]
        found = self.measure.diagnosis
        chance = None if found is None else found.chance_mean
        return ByExample(self.descriptor.name, a.names, tuple(ids), np.asarray(scores, np.float64), chance)

    def _inputs(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> dict[str, Any]:
        """What scoring takes, of both sides."""
        anchors = [None if not self.measure.anchor_ids else self._read(one, self._anchor_rows(one)) for one in (a, b)]
        sources = [[(self._source(side) or "", layer) for layer in side.names] for side in (a, b)]
        return {
            "xs": self._read(a, rows_a), "anchors_x": anchors[0], "sources_x": sources[0],
            "ys": self._read(b, rows_b), "anchors_y": anchors[1], "sources_y": sources[1],
        }  # fmt: skip

    def notes(self, a: Layers, b: Layers, rows_a: np.ndarray, rows_b: np.ndarray) -> tuple[str, ...]:
        """What a reader must know before concluding from the scores.

        Args:
            a: One side.
            b: The other.
            rows_a: Rows that were scored.
            rows_b: The same examples in b.

        Returns:
            Sentences: the rows, the sides, what chance gives, and the verdict of the fit.
        """
        del rows_b
        return (self._rows_told(a, rows_a), *map(self._side_told, (a, b)), *self._trust_told())

    def doubt(self, a: Layers, b: Layers) -> str | None:
        """Why no gate may rest on this measure for these two.

        Args:
            a: One side.
            b: The other.

        Returns:
            A clause; None where nothing speaks against it.
        """
        found = self.measure.diagnosis
        if found is None:
            return "it was fitted without a diagnosis (test_share=0)"
        if found.seen.low <= found.seen.chance:
            return f"on new examples of its own sources it is right {_share(found.seen)}, not above chance"
        if self.measure.options.objective in ("deep_dot", "deep_cka"):
            return f"it was fitted by attraction alone ({self.measure.options.objective}), which calls everything alike"
        if found.positive_mean <= found.chance_high:
            return (
                f"its positives score {found.positive_mean:.2f}, and with their rows permuted up to "
                f"{found.chance_high:.2f}: it does not look at which example is which"
            )
        strangers = [side.name for side in (a, b) if self._source(side) is None]
        if strangers and (found.unseen is None or found.unseen.low <= found.unseen.chance):
            told = "nothing is known about models that were not fitted" if found.unseen is None else (
                f"on models that it has not seen it is right {_share(found.unseen)}, not above chance"
            )  # fmt: skip
            return f"{strangers[0]} took no part in its fit, and {told}"
        return None

    def _check_source(self, side: Layers) -> None:
        source, projected = self._source(side), self.measure.options.input == "projected"
        if source is not None or (self.allow_unfitted and not projected):
            return
        advice = (
            "Its input is projected, so it has no map for others: fit one with input='relative'."
            if projected
            else "Its scores are only known to mean something where it was fitted. Fit it on this source too, or "
            "accept that by allow_unfitted=True; on the command line --allow-unfitted."
        )
        known = ", ".join(list(self.measure.sources)[:12])
        raise UnknownNameError(
            f"contrasim was not fitted for {side.name!r}, {self._why(side)} (it knows {known}). {advice}"
        )

    def _source(self, side: Layers) -> str | None:
        """The fitted source that a side is of: told by its weights where both know them, else by name and widths."""
        weights = _weights(side)
        if weights is not None:
            of_weights = [name for name, one in self.measure.sources.items() if one.weights_sha256 == weights]
            if of_weights:
                return side.name if side.name in of_weights else of_weights[0]
        name = self._namesake(side)
        if name is None:
            return None
        source = self.measure.sources[name]
        if weights is not None and source.weights_sha256 is not None:
            return None
        widths = dict(zip(source.layers, source.widths, strict=True))
        return name if all(widths.get(layer, side.width(layer)) == side.width(layer) for layer in side.names) else None

    def _namesake(self, side: Layers) -> str | None:
        return next((one for one in (side.name, side.name.removesuffix(".store")) if one in self.measure.sources), None)

    def _why(self, side: Layers) -> str:
        name = self._namesake(side)
        if name is None:
            return "which is none of its sources"
        weights = _weights(side) and self.measure.sources[name].weights_sha256
        return f"which has the name of a fitted source but other {'weights' if weights else 'widths'}"

    def _ids(self, side: Layers, rows: np.ndarray) -> Sequence[str] | None:
        if side.ids is None:
            if self.measure.anchor_ids or self.on_seen != "keep":
                raise AlignmentError(
                    f"contrasim needs the example ids of {side.name}, which carries none, to tell "
                    f"{'its anchors' if self.measure.anchor_ids else 'what it was trained on'}. Give the ids that the "
                    "fit had (an array 'ids' in a .npz file, or a store); a fit without ids calls rows '0', '1', ..."
                )
            return None
        ids = [side.ids[row] for row in rows]
        return ids if self.examples is None else [str(self.examples(one)) for one in ids]

    def _anchor_rows(self, side: Layers) -> np.ndarray:
        ids = self._ids(side, np.arange(side.num_examples)) or ()
        places: dict[str, int] = {}
        for row, one in enumerate(ids):
            places.setdefault(one, row)
        missing = [one for one in self.measure.anchor_ids if one not in places]
        if missing:
            raise AlignmentError(
                f"contrasim with relative input needs its {len(self.measure.anchor_ids)} anchor examples on both "
                f"sides: {side.name} lacks {len(missing)} of them, the first is {missing[0]!r}. Extract them from this "
                "model too: they are in measure.anchor_ids, and in the manifest of a saved measure."
            )
        return np.asarray([places[one] for one in self.measure.anchor_ids])

    def _read(self, side: Layers, rows: np.ndarray) -> list[Any]:
        arrays = [side.read(layer, rows) for layer in side.names]
        titles = [f"layer {layer!r} of {side.name}" for layer in side.names]
        return list(checked_layers(arrays, operation="contrasim", min_rows=2, names=titles, as_is=True))

    def _rows_told(self, a: Layers, rows: np.ndarray) -> str:
        n, anchors = len(rows), len(self.measure.anchor_ids)
        said = f"ContraSim, and all measures here, were computed on {n} of {a.num_examples} examples"
        if anchors:
            said += f"; its {anchors} anchors are not scored"
        ids = self._ids(a, rows)
        if ids is None:
            return f"{said}. Without ids it is not known which of them it was trained on."
        seen = int(self.measure.trained_on(ids).sum())
        if seen:
            return f"{said}. It was trained on {seen} of them: their scores flatter."
        return f"{said}. It was trained on none of them."

    def _side_told(self, side: Layers) -> str:
        source = self._source(side)
        if source is None:
            unseen = self.measure.diagnosis and self.measure.diagnosis.unseen
            known = (
                f"on models held out at the fit it is right {_share(unseen)}"
                if unseen
                else "no model was held out then"
            )
            return f"ContraSim has not seen {side.name} at its fit; {known}."
        fitted = self.measure.sources[source]
        said = f"ContraSim was {'tested but not trained' if fitted.held_out else 'trained'} on {side.name} at its fit"
        if _weights(side) is None or fitted.weights_sha256 is None:
            said += " (known by its name alone)"
        others = [layer for layer in side.names if layer not in fitted.layers]
        return f"{said}, but not on its layers {', '.join(others[:5])}." if others else f"{said}."

    def _trust_told(self) -> tuple[str, ...]:
        found = self.measure.diagnosis
        if found is None:
            return ("ContraSim was fitted without a diagnosis: nothing is known about what its scores mean.",)
        unseen = "" if found.unseen is None else f", and of held-out models {_share(found.unseen)}"
        return (
            f"ContraSim, on held-out examples of the models that it was fitted on, is right {_share(found.seen)}"
            f"{unseen}.",
            f"ContraSim of positives whose rows were permuted is {found.chance_mean:.2f} on average, 95 % of the time "
            f"below {found.chance_high:.2f}: read scores against that, not against 0.",
            f"ContraSim's fit says: {' '.join(found.verdict)}",
        )


def _weights(side: Layers) -> str | None:
    """The checksum of the model's weights, where the store tells, or what was taken from it."""
    return weights_of(side.layers) or getattr(side.layers, "metadata", {}).get("weights_sha256")


def _share(one: Accuracy) -> str:
    return f"{one.share:.0%} of the time ({one.low:.0%} to {one.high:.0%}, chance {one.chance:.0%})"
