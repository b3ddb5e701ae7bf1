"""The choice among candidates, for any two sources of paired examples and any contestants."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.evaluation.contests.standings import Family, Standing, closed_pairs, encoded_pairs, untrained
from repsim_jax.evaluation.protocols import Pairs, Trials, bootstrap_units, choices, trials
from repsim_jax.linalg import unit_rows
from repsim_jax.similarity import contrasim

_CHANCE = 1 / 11


class Question(NamedTuple):
    """Two sources whose test rows show the same examples.

    Attributes:
        unit: What is resampled for intervals: the pair, the fit.
        x: (N, dx) test rows of the first.
        y: (N, dy) test rows of the second, from which candidates are drawn.
        anchors_x: (k, dx) training rows that serve as anchors.
        anchors_y: (k, dy).
        key_x: (source, layer) of the first.
        key_y: (source, layer) of the second.
    """

    unit: str
    x: np.ndarray
    y: np.ndarray
    anchors_x: np.ndarray
    anchors_y: np.ndarray
    key_x: tuple[str, str]
    key_y: tuple[str, str]


class Answers:
    """Collects the decisions of all contestants, and turns them into a table.

    Args:
        contest: What was asked.
        sizes: Examples n of each decision, with the number of times that the examples are partitioned for it.
        seed: Of the trials; the same for every contestant, so that all are asked the same.
    """

    def __init__(self, contest: str, sizes: dict[int, int], *, seed: int):
        self.contest, self.sizes, self.seed = contest, sizes, seed
        self._right: dict[tuple[str, Family, str, str, int], list[np.ndarray]] = {}

    def given(self, question: Question, kind: Any) -> Iterable[tuple[int, Trials]]:
        """The trials of a question, for each size that its examples suffice for.

        Args:
            question: What is asked.
            kind: "random" or "hard" alternatives.

        Yields:
            Size and trials.
        """
        for size, repeats in self.sizes.items():
            if size <= len(question.y):
                generator = np.random.default_rng((self.seed, size, kind == "hard"))
                yield size, trials(generator, question.y, size=size, kind=kind, repeats=repeats)

    def ask(self, name: str, family: Family, trained_on: str, question: Question, x: Any, y: Any, pairs: Pairs) -> None:
        """Puts one question to one contestant, by the arrays that it compares.

        Args:
            name: Who.
            family: As in ``Standing``.
            trained_on: As in ``Standing``.
            question: What is asked.
            x: (N, q) of the first source, as the contestant sees it.
            y: (N, q) of the second.
            pairs: How the contestant scores two lists of such arrays.
        """
        for kind in ("random", "hard"):
            for size, given in self.given(question, kind):
                self._right.setdefault((name, family, trained_on, kind, size), []).append(choices(pairs, x, y, given))

    def ask_closed(self, names: Sequence[str], question: Question) -> None:
        """Puts a question to closed-form measures.

        Args:
            names: Registered measures.
            question: What is asked.
        """
        for name in names:
            self.ask(name, "closed form", "", question, question.x, question.y, closed_pairs(name))

    def ask_anchored(self, question: Question) -> None:
        """Puts a question to the untrained cosines of relative representations.

        Args:
            question: What is asked.
        """
        pairs = encoded_pairs(contrasim.Options())
        for name, whiten in (("relative cosine, whitened", True), ("relative cosine", False)):
            x = untrained(question.x, question.anchors_x, whiten=whiten)
            y = untrained(question.y, question.anchors_y, whiten=whiten)
            self.ask(name, "anchors only", "", question, x, y, pairs)

    def ask_cosine(self, question: Question) -> None:
        """Puts a question to the mean cosine of the features as they are: for languages of one model.

        Args:
            question: What is asked.
        """
        x, y = (np.asarray(unit_rows(jnp.asarray(side, jnp.float32))) for side in (question.x, question.y))
        self.ask("cosine of raw features", "closed form", "", question, x, y, encoded_pairs(contrasim.Options()))

    def ask_learned(self, name: str, trained_on: str, measure: contrasim.ContraSim, question: Question) -> None:
        """Puts a question to a fitted measure.

        Args:
            name: Who.
            trained_on: As in ``Standing``.
            measure: What was fitted.
            question: What is asked.
        """
        x, y = (
            np.asarray(contrasim.encode_layers(measure, [rows], anchors=[anchors], sources=[key]))[0]
            for rows, anchors, key in (
                (question.x, question.anchors_x, question.key_x),
                (question.y, question.anchors_y, question.key_y),
            )
        )
        self.ask(name, "learned", trained_on, question, x, y, encoded_pairs(measure.options))

    def standings(self) -> list[Standing]:
        """The table: each contestant, kind of negatives and size."""
        return [
            Standing(
                self.contest, name, family, trained_on, kind, size,
                bootstrap_units(np.random.default_rng(self.seed), right), _CHANCE,
            )
            for (name, family, trained_on, kind, size), right in self._right.items()
        ]  # fmt: skip


def keyed(seed: int, *parts: int) -> jax.Array:
    """A random key for one fit of a contest.

    Args:
        seed: Of the contest.
        *parts: What tells this fit from the others.

    Returns:
        A key.
    """
    key = jax.random.key(seed)
    for part in parts:
        key = jax.random.fold_in(key, part)
    return key
