"""What is known about the examples that made a representation? Everything a page, a table or a terminal may tell."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from repsim_jax.influence import DampingSweep
    from repsim_jax.influence.curation import Duplicates, Leaks, SliceTest, Wish

Picture = Callable[[int], np.ndarray | None]


class Ranked(NamedTuple):
    """Training examples that raise and lower what is measured of one query.

    Attributes:
        query_id: Name of the query.
        query_row: Its number, for ``Audit.query_picture``.
        helpful: Rows of the training examples that improve the measurement most, best first.
        helpful_values: Their influence.
        harmful: Rows of those that worsen it most, worst first.
        harmful_values: Their influence.
        measurement: Of the query, as the model is.
        rank_correlation: Spearman's correlation, over training examples, of the helpfulness with the cosine of
            embeddings; None where it was not computed.
        shared_with_nearest: How many of the helpful ones are also among as many nearest neighbors.
    """

    query_id: str
    query_row: int
    helpful: np.ndarray
    helpful_values: np.ndarray
    harmful: np.ndarray
    harmful_values: np.ndarray
    measurement: float = float("nan")
    rank_correlation: float | None = None
    shared_with_nearest: int | None = None


def ranked(
    name: str, row: int, values: np.ndarray, measurement: float, cosines: np.ndarray | None = None, *, top: int = 10
) -> Ranked:
    """Ranks the training examples of one query, whose measurement is better where it is lower.

    Args:
        name: Of the query.
        row: Its number.
        values: (n,) influence on it.
        measurement: Of it.
        cosines: (n,) of its embedding with theirs; None where influence is not of a single query.
        top: How many are kept at both ends.

    Returns:
        The first ones, and how the order compares with that of the cosines.
    """
    from scipy.stats import rankdata

    order = np.argsort(values, kind="stable")
    helpful, harmful = order[:top], order[::-1][:top]
    correlation, shared = None, None
    if cosines is not None:
        both = [rankdata(-values), rankdata(cosines)]
        varied = all(np.ptp(ranks) > 0 for ranks in both)
        correlation = float(np.corrcoef(both)[0, 1]) if varied else 0.0
        shared = len(np.intersect1d(helpful, np.argsort(-cosines, kind="stable")[:top]))
    return Ranked(name, row, helpful, values[helpful], harmful, values[harmful], measurement, correlation, shared)


def query_columns(ids: Sequence[str], queries: Sequence[Ranked]) -> dict[str, np.ndarray]:
    """One row per query and training example among its first.

    Args:
        ids: Names of the training examples.
        queries: What was asked.

    Returns:
        Columns by name.
    """
    rows = [
        (one.query_id, side, rank, ids[row], float(value))
        for one in queries
        for side, found, values in (
            ("helpful", one.helpful, one.helpful_values),
            ("harmful", one.harmful, one.harmful_values),
        )
        for rank, (row, value) in enumerate(zip(found, values, strict=True), 1)
    ]
    names = ("query", "side", "rank", "id", "influence")
    return {name: np.asarray([row[k] for row in rows]) for k, name in enumerate(names)}


class Verdict(NamedTuple):
    """How well one way to score examples foretells what training without them does.

    Attributes:
        name: Of the way.
        score: Linear datamodeling score; the mean over seeds.
        low: Lower end: of the 95 % interval over subsets of one seed, or the least of several seeds.
        high: Upper end, likewise.
        memorization: Spearman's correlation of self-influence with what leaving out each example did; the mean over
            seeds; None where it has none.
        deviation: Standard deviation of the score over seeds; None of one seed.
        held_out: As ``score``, of queries that were never trained on; None where there were none.
        held_out_low: As ``low``.
        held_out_high: As ``high``.
        held_out_deviation: As ``deviation``.
        memorization_deviation: As ``deviation``.
    """

    name: str
    score: float
    low: float
    high: float
    memorization: float | None = None
    deviation: float | None = None
    held_out: float | None = None
    held_out_low: float | None = None
    held_out_high: float | None = None
    held_out_deviation: float | None = None
    memorization_deviation: float | None = None


class Truth(NamedTuple):
    """A check by training anew.

    Attributes:
        verdicts: One for each way.
        ceiling: Linear datamodeling score of a perfect predictor; None where it was not computed.
        told: How it was done, in a sentence.
        held_out_ceiling: As ``ceiling``, of queries that were never trained on.
        seeds: How often it was done, with other examples, weights and subsets.
    """

    verdicts: tuple[Verdict, ...]
    ceiling: float | None
    told: str
    held_out_ceiling: float | None = None
    seeds: int = 1


def of_scores(truth: Truth, mode: str) -> Verdict | None:
    """The verdict on the scores that are shown, and not on the best of all ways.

    Args:
        truth: The check by training anew.
        mode: Of the scores; "" where it is not told.

    Returns:
        The first of this mode that is no baseline; None where there is none.
    """
    judged = [one for one in truth.verdicts if one.memorization is not None]  # a baseline has no memorization
    return next((one for one in judged if one.name.startswith(mode)), None)


class Checkpoints(NamedTuple):
    """Self-influence over the models that one training kept on its way.

    Attributes:
        steps: (c,) updates before each.
        means: (n,) over models.
        standard_errors: (n,) of the means.
        agreement: (c, c) Spearman's correlation of self-influence between models.
    """

    steps: np.ndarray
    means: np.ndarray
    standard_errors: np.ndarray
    agreement: np.ndarray


class Selection(NamedTuple):
    """A smaller training set.

    Attributes:
        kept: Rows.
        method: By which they were chosen.
    """

    kept: np.ndarray
    method: str


class Audit(NamedTuple):
    """All that was found out; what is None or empty has no chapter.

    Attributes:
        ids: Names of the n training examples.
        self_influence: (n,).
        picture: ``picture(row)`` gives a training example as uint8 (h, w) or (h, w, 3); None where it is no image.
        standard_errors: (n,) of self-influence, over views.
        checkpoints: Self-influence over models of the same training.
        stability: (n,) of each example's own views; lower is more stable.
        labels: (n,) classes, for show only: nothing is computed from them.
        density: (n,) mean cosine distance to the nearest others; higher is sparser.
        quadrants: (n,) names such as "prototype"; from ``influence.curation``.
        rarity: (n,) the combined score; higher is rarer.
        queries: Helpful and harmful examples of each query.
        query_picture: As ``picture``, of queries; None: queries are training examples.
        measurement: What was measured of the queries, and which way is better.
        duplicates: ``influence.curation`` duplicates: groups, kinds, threshold.
        dropped: Rows that may be dropped as copies.
        leaks: Pairs of a training and a test example; ``leak_ids`` names the latter.
        leak_ids: Names of test examples.
        leak_picture: As ``picture``, of test examples.
        selection: A coreset.
        pruning: Curves of accuracy over the share of examples that was dropped.
        sweep: Self-influence under several dampings.
        truth: A check by training anew.
        slices: Tests of groups of examples.
        plan: What to gather more of, from ``influence.curation``; the most wanted kind first.
        trained: Whether the model was trained on these examples by this objective; False where that is not known: then
            no page says that it memorized them.
        damping: With which the scores were computed, as a share of the mean eigenvalue; None where it is not told.
        mode: Of the scores, "batch" or "paper"; "" where it is not told.
        skipped: {name: reason} of files that could not be read.
        title: Of the page.
        provenance: How the numbers came about, as label and text.
    """

    ids: Sequence[str]
    self_influence: np.ndarray
    picture: Picture
    standard_errors: np.ndarray | None = None
    checkpoints: Checkpoints | None = None
    stability: np.ndarray | None = None
    labels: Sequence[Any] | None = None
    density: np.ndarray | None = None
    quadrants: np.ndarray | None = None
    rarity: np.ndarray | None = None
    queries: tuple[Ranked, ...] = ()
    query_picture: Picture | None = None
    measurement: str = "stability (lower is better)"
    duplicates: "Duplicates | None" = None
    dropped: Sequence[int] = ()
    leaks: "Leaks | None" = None
    leak_ids: Sequence[str] = ()
    leak_picture: Picture | None = None
    selection: Selection | None = None
    pruning: Any = None
    sweep: "DampingSweep | None" = None
    truth: Truth | None = None
    slices: "SliceTest | None" = None
    plan: "Sequence[Wish]" = ()
    trained: bool = True
    damping: float | None = None
    mode: str = ""
    skipped: Mapping[str, str] = {}
    title: str = "Which training examples made this representation?"
    provenance: Mapping[str, str] = {}

    @property
    def percentiles(self) -> np.ndarray:
        """(n,) share of the examples, in percent, whose self-influence is at most this one's."""
        ordered = np.sort(self.self_influence)
        return 100 * np.searchsorted(ordered, self.self_influence, side="right") / len(ordered)

    def columns(self) -> dict[str, np.ndarray]:
        """One row per example: what goes into ``scores.csv`` and ``scores.parquet``.

        Returns:
            Columns by name; those that are not known are left out.
        """
        known: dict[str, Any] = {
            "id": self.ids, "self_influence": self.self_influence, "standard_error": self.standard_errors,
            "percentile": self.percentiles, "stability": self.stability, "density": self.density,
            "quadrant": self.quadrants, "rarity": self.rarity, "label": self.labels,
        }  # fmt: skip
        if self.checkpoints is not None:
            known["mean_over_checkpoints"] = self.checkpoints.means
            known["standard_error_over_checkpoints"] = self.checkpoints.standard_errors
        if self.duplicates is not None:
            groups = np.full(len(self.ids), -1)
            for number, rows in enumerate(self.duplicates.groups):
                groups[np.asarray(rows)] = number
            known["duplicate_group"] = groups
            known["may_be_dropped"] = np.isin(np.arange(len(self.ids)), np.asarray(self.dropped, int))
        return {name: np.asarray(values) for name, values in known.items() if values is not None}

    def query_columns(self) -> dict[str, np.ndarray]:
        """One row per query and training example among its first: what goes into ``queries.csv``.

        Returns:
            Columns by name.
        """
        return query_columns(self.ids, self.queries)

    def duplicate_columns(self) -> dict[str, np.ndarray]:
        """One row per example of a group: what goes into ``duplicates.csv``.

        Returns:
            Columns by name.
        """
        dropped = {int(row) for row in self.dropped}
        groups = [] if self.duplicates is None else self.duplicates.groups
        rows = [
            (number, self.ids[row], int(row) in dropped, float(self.self_influence[row]))
            for number, group in enumerate(groups)
            for row in group
        ]
        names = ("group", "id", "may_be_dropped", "self_influence")
        return {name: np.asarray([row[k] for row in rows]) for k, name in enumerate(names)}
