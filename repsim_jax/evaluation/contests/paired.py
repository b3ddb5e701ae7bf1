"""The choice among candidates, for any two sources of paired examples and any contestants."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.evaluation.contests.standings import (
    Decisions,
    Family,
    Line,
    Standing,
    closed_pairs,
    encoded_pairs,
    standings,
    untrained,
)
from repsim_jax.evaluation.protocols import Interval, Pairs, Trials, bootstrap_units, choices, trials
from repsim_jax.linalg import unit_rows
from repsim_jax.similarity import contrasim

_CHANCE = 1 / 11


class Question(NamedTuple):
    """Two sources whose test rows show the same examples.

    Attributes:
        contest: What it is part of.
        x: (N, dx) test rows of the first.
        y: (N, dy) test rows of the second, from which candidates are drawn.
        anchors_x: (k, dx) training rows that serve as anchors.
        anchors_y: (k, dy).
        key_x: (source, layer) of the first.
        key_y: (source, layer) of the second.
    """

    contest: str
    x: np.ndarray
    y: np.ndarray
    anchors_x: np.ndarray
    anchors_y: np.ndarray
    key_x: tuple[str, str]
    key_y: tuple[str, str]


class Asked:
    """What all contestants answer to one question.

    Args:
        question: The question.
        sizes: Examples n of each decision, with the number of times that the examples are partitioned for it.
        seed: Of the trials; the same for every contestant, so that all are asked the same.
    """

    def __init__(self, question: Question, sizes: Mapping[int, int], *, seed: int):
        self.question, self.sizes, self.seed = question, sizes, seed
        self._answers: dict[Line, list[np.ndarray]] = {}

    def given(self, kind: Any) -> Iterable[tuple[int, Trials]]:
        """The trials, for each size that the examples suffice for.

        Args:
            kind: "random" or "hard" alternatives.

        Yields:
            Size and trials.
        """
        for size, repeats in self.sizes.items():
            if size <= len(self.question.y):
                generator = np.random.default_rng((self.seed, size, kind == "hard"))
                yield size, trials(generator, self.question.y, size=size, kind=kind, repeats=repeats)

    def ask(self, name: str, family: Family, trained_on: str, x: Any, y: Any, pairs: Pairs) -> None:
        """Puts the question to one contestant, by the arrays that it compares.

        Args:
            name: Who.
            family: As in ``Standing``.
            trained_on: As in ``Standing``.
            x: (N, q) of the first source, as the contestant sees it.
            y: (N, q) of the second.
            pairs: How the contestant scores two lists of such arrays.
        """
        for kind in ("random", "hard"):
            for size, given in self.given(kind):
                line = Line(self.question.contest, name, family, trained_on, kind, size)
                self._answers.setdefault(line, []).append(choices(pairs, x, y, given))

    def ask_closed(self, names: Sequence[str]) -> None:
        """Puts the question to closed-form measures.

        Args:
            names: Registered measures.
        """
        for name in names:
            self.ask(name, "closed form", "", self.question.x, self.question.y, closed_pairs(name))

    def ask_anchored(self) -> None:
        """Puts the question to the untrained cosines of relative representations."""
        pairs = encoded_pairs(contrasim.Options())
        for name, whiten in (("relative cosine, whitened", True), ("relative cosine", False)):
            x = untrained(self.question.x, self.question.anchors_x, whiten=whiten)
            y = untrained(self.question.y, self.question.anchors_y, whiten=whiten)
            self.ask(name, "anchors only", "", x, y, pairs)

    def ask_cosine(self) -> None:
        """Puts the question to the mean cosine of the features as they are: for languages of one model."""
        sides = self.question.x, self.question.y
        x, y = (np.asarray(unit_rows(jnp.asarray(side, jnp.float32))) for side in sides)
        self.ask("cosine of raw features", "closed form", "", x, y, encoded_pairs(contrasim.Options()))

    def ask_learned(self, name: str, trained_on: str, measure: contrasim.ContraSim) -> None:
        """Puts the question to a fitted measure; of several by one name, each decision is the mean of theirs.

        Args:
            name: Who.
            trained_on: As in ``Standing``.
            measure: What was fitted.
        """
        asked = self.question
        x, y = (
            np.asarray(contrasim.encode_layers(measure, [rows], anchors=[anchors], sources=[key]))[0]
            for rows, anchors, key in (
                (asked.x, asked.anchors_x, asked.key_x),
                (asked.y, asked.anchors_y, asked.key_y),
            )
        )
        self.ask(name, "learned", trained_on, x, y, encoded_pairs(measure.options))

    def decisions(self) -> Decisions:
        """The answers: of each line one array, with one number for each decision."""
        return {line: [np.mean(answers, axis=0)] for line, answers in self._answers.items()}


def paired_standings(decisions: Decisions, *, seed: int) -> list[Standing]:
    """The table of a contest of choices; what is resampled are its units (pairs of models or of languages).

    Args:
        decisions: Of each line one array for each unit.
        seed: Of the intervals.

    Returns:
        A line for each contestant, kind of negatives and size.
    """

    def interval(units: list[np.ndarray]) -> Interval:
        return bootstrap_units(np.random.default_rng(seed), units)

    return standings(decisions, _CHANCE, interval)


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
