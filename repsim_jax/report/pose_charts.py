"""Pictures of canonicalization: accuracies, poses that follow, time of each part, histograms of poses, curves."""

from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.plots import LIGHT, settings
from repsim_jax.report.row_charts import ACCENT, SECOND, WEAK, Chart, frame, name_rows
from repsim_jax.report.tables import number

if TYPE_CHECKING:
    from repsim_jax.canonicalization import Curve, Diversity, Equivariance, Latency

_ROWS = 8  # of a picture without named rows, in units of the others
_MOST_ELEMENTS = 32
_BAR = 0.36  # of a row


def _legend(axes: Any, columns: int) -> None:
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": columns}
    axes.legend(fontsize=7, frameon=False, labelcolor=LIGHT.ink, **place)


def accuracy_chart(found: "Equivariance") -> Chart:
    """Accuracy of each way, upright and over the orbit; without labels, how often a way agrees with itself.

    Args:
        found: The audit, whose model gives classes.

    Returns:
        The picture.
    """
    n, has_labels = found.followed.shape[1], found.repaired.right is not None
    ways = [way for way in found.ways if way.agrees is not None]
    what = "share of right classes" if has_labels else "share of unchanged classes"
    with settings():
        figure, axes = frame(
            len(ways) + 1, LIGHT, "What do turned inputs cost?", f"{what} (right is better), n = {n:,}"
        )
        name_rows(axes, [way.name for way in ways], LIGHT)
        for row, way in enumerate(ways):
            flags = np.asarray(way.right if has_labels else way.agrees)
            orbit, upright = float(flags.mean()), float(flags[0].mean())
            axes.plot([orbit, upright], [row, row], color=WEAK, lw=1)
            named = row == 0
            axes.plot(upright, row, "o", color=SECOND, ms=6, label="as they came" if named else None)
            axes.plot(orbit, row, "o", color=ACCENT, ms=4, label="mean over all elements" if named else None)
        axes.set_xlim(-0.02, 1.02)
        _legend(axes, 2)
    drop = found.upright_drop
    told = "" if drop is None else f" Inputs as they came lose {100 * drop:.1f} points by the repair."
    caption = f"Every element of {found.group.name} on every input; interpolation: {found.interpolation}.{told}"
    return Chart("accuracy", "Accuracy", caption, "Shares of classes by way to answer.", figure)


def element_chart(found: "Equivariance", names: list[str]) -> Chart:
    """Which poses follow, and whether the class stays, for each element.

    Args:
        found: The audit.
        names: Of the elements.

    Returns:
        The picture.
    """
    rows = found.by_element()[:_MOST_ELEMENTS]
    n = found.followed.shape[1]
    with settings():
        subtitle = f"shares of n = {n:,} inputs (right is better)"
        figure, axes = frame(len(rows), LIGHT, "Does the chosen pose follow the input?", subtitle)
        name_rows(axes, names[: len(rows)], LIGHT)
        places = np.arange(len(rows))
        axes.barh(places - _BAR / 2, [row.followed for row in rows], _BAR, color=ACCENT, label="pose follows")
        if rows[0].agrees is not None:
            axes.barh(places + _BAR / 2, [row.agrees or 0.0 for row in rows], _BAR, color=SECOND, label="class stays")
        else:
            axes.barh(places + _BAR / 2, [row.exact for row in rows], _BAR, color=SECOND, label="equal to the last bit")
        axes.set_xlim(0, 1.02)
        _legend(axes, 2)
    share = float(np.mean([row.exact for row in rows]))
    caption = (
        f"{number(100 * share, 1)} % of all answers are equal to the last bit to the answer for the upright input."
    )
    return Chart("elements", "Elements", caption, "Shares by element of the group.", figure)


def margin_chart(found: "Equivariance") -> Chart:
    """How much hangs on the margin of the choice.

    Args:
        found: The audit.

    Returns:
        The picture.
    """
    rows = found.by_margin()
    middle = [(row.low + row.high) / 2 for row in rows]
    with settings():
        subtitle = f"a dot for each tenth of n = {found.followed.shape[1]:,} inputs"
        figure, axes = frame(_ROWS, LIGHT, "Is a sure choice a better one?", subtitle)
        axes.plot(middle, [row.followed for row in rows], "o-", color=ACCENT, ms=4, lw=1.2, label="pose follows")
        if rows[0].agrees is not None:
            axes.plot(
                middle, [row.agrees or 0.0 for row in rows], "s--", color=SECOND, ms=4, lw=1.2, label="class stays"
            )
        if rows[0].accuracy is not None:
            axes.plot(
                middle, [row.accuracy or 0.0 for row in rows], "^:", color=WEAK, ms=5, lw=1.2, label="class is right"
            )
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlabel("margin: second lowest energy less the least (right: surer)", color=LIGHT.muted)
        axes.set_ylabel("share of the inputs, over all\nelements but the identity", color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
        axes.legend(fontsize=7, frameon=False, labelcolor=LIGHT.ink, loc="lower right")
    caption = "What is unsure is what a gate would leave alone, and what noise would turn first."
    return Chart("margins", "Margins", caption, "Shares over the margin of the choice.", figure)


def latency_chart(found: "Latency") -> Chart:
    """Milliseconds of each part, by batch.

    Args:
        found: The audit.

    Returns:
        The picture.
    """
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    names = list(dict.fromkeys(one.name for one in found.timings))
    batches = found.batches[:2]
    with settings():
        subtitle = f"milliseconds of an input (left is better); median of {found.num_repeats} runs, line to the 90th %"
        figure, axes = frame(len(names), LIGHT, "What does it cost?", subtitle)
        name_rows(axes, names, LIGHT)
        for k, (batch, color) in enumerate(zip(batches, (SECOND, ACCENT), strict=False)):
            timings = [found.of(name, batch) for name in names]
            places = np.arange(len(names)) + (k - (len(batches) - 1) / 2) * _BAR
            medians = np.array([one.median_ms for one in timings]) / batch
            slow = np.array([one.p90_ms for one in timings]) / batch
            axes.barh(places, medians, _BAR, color=color, label=f"batch {batch}")
            axes.hlines(places, medians, slow, color=LIGHT.ink, lw=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        _legend(axes, 2)
    ratios = " and ".join(f"{found.ratio(batch):.2f} at batch {batch}" for batch in found.batches)
    caption = f"The canonicalizer takes {ratios} times as long as the model, on {found.device}. "
    caption += "Parts are compiled; the repaired model is timed as it is called, with its checks."
    return Chart("latency", "Time", caption, "Milliseconds of each part, on a logarithmic axis.", figure)


def poses_chart(found: "Diversity", names: list[str]) -> Chart:
    """How often each element was chosen.

    Args:
        found: The audit.
        names: Of the elements.

    Returns:
        The picture.
    """
    train, test = found.train, found.test
    shown = min(len(names), _MOST_ELEMENTS)
    with settings():
        subtitle = f"share of the inputs; n = {train.num:,}" + ("" if test is None else f" and {test.num:,}")
        figure, axes = frame(shown, LIGHT, "In which pose are the inputs?", subtitle)
        name_rows(axes, names[:shown], LIGHT)
        places = np.arange(shown)
        axes.barh(places - _BAR / 2, (train.counts / train.num)[:shown], _BAR, color=ACCENT, label="training")
        if test is not None:
            axes.barh(places + _BAR / 2, (test.counts / test.num)[:shown], _BAR, color=SECOND, label="test")
        axes.set_xlim(0, 1.02)
        _legend(axes, 2)
    caption = f"{100 * train.identity_rate:.1f} % of the training images are left as they are"
    caption += "." if test is None else f", and {100 * test.identity_rate:.1f} % of the test images."
    return Chart("poses", "Poses", caption, "Histograms of the chosen elements.", figure)


def curve_chart(curve: "Curve", what: str) -> Chart:
    """A score over the number of training images, and what twice as many would give.

    Args:
        curve: The learning curve.
        what: Was measured.

    Returns:
        The picture.
    """
    with settings():
        figure, axes = frame(_ROWS, LIGHT, "Would more data help?", "one fit for each dot")
        axes.plot(curve.sizes, curve.scores, "o-", color=ACCENT, ms=5, lw=1.2, label="measured")
        ends = (curve.sizes[-1], 2 * curve.sizes[-1]), (curve.scores[-1], curve.next_score)
        axes.plot(*ends, "o--", color=SECOND, ms=5, lw=1.2, mfc="none", label="expected")
        axes.set_xscale("log", base=2)
        ticks = (*curve.sizes, 2 * curve.sizes[-1])
        axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
        axes.minorticks_off()
        axes.set_ylim(min(*curve.scores, 0.9) - 0.05, 1.02)
        axes.set_xlabel("training images", color=LIGHT.muted)
        axes.set_ylabel(f"{what}\n(up is better)", color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
        axes.legend(fontsize=7, frameon=False, labelcolor=LIGHT.ink, loc="lower right")
    caption = f"Twice as many images would add about {100 * curve.per_doubling:.1f} points, if gains go on as they did."
    return Chart("curve", "Learning curve", caption, "A score over the number of training images.", figure)
