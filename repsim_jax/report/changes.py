"""What changed between two versions of a model? Layer by layer over the examples, and the examples that moved most."""

import csv
import io
from typing import TYPE_CHECKING

import numpy as np

from repsim_jax.report import words
from repsim_jax.report.plots import LIGHT, settings
from repsim_jax.report.row_charts import ACCENT, WEAK, Chart, frame, name_rows
from repsim_jax.report.tables import number
from repsim_jax.report.text import csv_cell, shorten

if TYPE_CHECKING:
    from repsim_jax.report.findings import Digest
    from repsim_jax.similarity.comparison import ByExample

EXAMPLES = "examples.csv"
# Examples that are listed, and layers that are drawn; the files have all.
MOST_LISTED, _MOST_DRAWN = 12, 40


def changes_chart(found: "Digest") -> Chart | None:
    """How alike the two versions see the examples, a row for each layer.

    Args:
        found: From ``digest``.

    Returns:
        The picture; None where no single examples were scored.
    """
    by_example = found.comparison.by_example
    if by_example is None:
        return None
    layers, scores = by_example.layers[:_MOST_DRAWN], by_example.scores[:_MOST_DRAWN]
    low, first, middle, third, high = np.quantile(scores, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1)
    title = "What changed, layer by layer"
    with settings():
        subtitle = f"n = {scores.shape[1]:,} examples · higher = more alike in both versions"
        figure, axes = frame(len(layers), LIGHT, title, subtitle)
        for place in range(len(layers)):
            axes.plot((low[place], high[place]), (place, place), color=WEAK, lw=1.2, solid_capstyle="round")
            axes.plot((first[place], third[place]), (place, place), color=ACCENT, lw=5, solid_capstyle="butt")
            axes.plot(middle[place], place, "o", color=LIGHT.ink, ms=4)
        told = ""
        if by_example.chance is not None:
            axes.axvline(by_example.chance, color=LIGHT.muted, lw=1, ls=(0, (4, 3)))
            told = "  (dashed: unrelated rows)"
        name_rows(axes, list(layers), LIGHT)
        lowest = min(float(low.min()), 1.0 if by_example.chance is None else by_example.chance)
        axes.set_xlim(lowest - 0.06 * (1.02 - lowest), 1.02)
        axes.set_xlabel(f"score of an example{told}", color=LIGHT.muted)
    least = int(np.argmin(middle))
    caption = (
        f"Dot: median; bar: half of the examples; line: 90 % of them. Most changed: {shorten(layers[least], 60)} "
        f"(median {number(float(middle[least]), 2)})."
    )
    a, b = words.names(found)
    alt = f"Ranges of the scores of single examples between {a} and {b}, for each layer."
    return Chart("changes", title, caption, alt, figure)


def changed_most(by_example: "ByExample") -> list[tuple[str, float, list[float]]]:
    """The examples that moved most.

    Args:
        by_example: Of a comparison.

    Returns:
        Id, mean score, and the score of every layer; lowest mean first.
    """
    places = {one: i for i, one in enumerate(by_example.ids)}
    return [
        (one, mean, by_example.scores[:, places[one]].tolist()) for one, mean in by_example.changed_most(MOST_LISTED)
    ]


def changes_to_csv(by_example: "ByExample") -> str:
    """All examples as CSV, the one that moved most first.

    Args:
        by_example: Of a comparison.

    Returns:
        A header (id, mean, layers) and a line for each example.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "mean", *map(csv_cell, by_example.layers)])
    means = by_example.scores.mean(axis=0)
    for i in np.argsort(means, kind="stable"):
        values = (means[i], *by_example.scores[:, i])
        writer.writerow([csv_cell(by_example.ids[i]), *(f"{value:.6g}" for value in values)])
    return text.getvalue()
