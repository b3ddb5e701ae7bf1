"""Which examples made this representation? One page with galleries, its tables, and a summary for the terminal."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repsim_jax.report import influence_charts as charts
from repsim_jax.report import tiles
from repsim_jax.report.audits import Audit, Checkpoints, Ranked, of_scores
from repsim_jax.report.columns import columns_to_csv, columns_to_parquet
from repsim_jax.report.sheets import Picture, environment, picture_of, shortened, write_files
from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten, styled
from repsim_jax.report.tiles import Tile

if TYPE_CHECKING:
    from rich.console import Group

    from repsim_jax.report.row_charts import Chart

INFLUENCE_PAGE, INFLUENCE_DOCUMENT = "influence.html", "influence.json"
SCHEMA = "repsim.influence/1"
# What a page shows at most, so that it opens at once whatever the number of examples.
_EXTREMES, _RARE, _QUERIES, _GROUPS, _COPIES, _OF_QUADRANT, _LEAKS, _FILES = 18, 18, 12, 24, 6, 9, 24, 200
_FIRST_SHARE = 0.05
# Above it more of what tells examples apart may be noise of the views than is not.
_NOISY = 0.5
_WISHES = 8
_CHARTS = ("self-influence", "quadrants", "damping", "retraining", "pruning", "slices")
_TERMINAL_ROWS = 5


class Family(NamedTuple):
    """A group of duplicates on the page.

    Attributes:
        tiles: Its first members.
        more: How many are not shown.
        kind: How they were found.
        similarity: The least cosine between members that were paired; NaN where it has none.
    """

    tiles: list[Tile]
    more: int
    kind: str
    similarity: float


def write_influence(audit: Audit, out: str | os.PathLike[str]) -> Path:
    """Writes the page, its pictures, the tables (CSV and Parquet) and the document (JSON) into a folder.

    Args:
        audit: All that was found out.
        out: The folder, made where it does not exist; files of an earlier page are replaced, others left alone.

    Returns:
        Path of the page.

    Raises:
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
        MissingPackageError: If Pillow or matplotlib is not installed.
    """
    drawn = {chart.stem: picture_of(chart, chart.figure) for chart in audit_charts(audit)}
    files = {path: content for one in drawn.values() for path, content in one.files.items()}
    tables = {"scores": audit.columns()}
    tables |= {"queries": audit.query_columns()} if audit.queries else {}
    tables |= {"duplicates": audit.duplicate_columns()} if audit.duplicates is not None else {}
    if audit.skipped:
        names, reasons = zip(*audit.skipped.items(), strict=True)
        tables["skipped"] = {"id": np.asarray(names), "reason": np.asarray(reasons)}
    for name, columns in tables.items():
        files[f"{name}.csv"] = columns_to_csv(columns)
        parquet = columns_to_parquet(columns)
        files |= {} if parquet is None else {f"{name}.parquet": parquet}
    document = influence_to_json(audit)
    files[INFLUENCE_DOCUMENT] = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    names = sorted(name for name in files if "/" not in name)
    files[INFLUENCE_PAGE] = _page(audit, drawn, names).encode()
    return write_files(Path(out), files, page=INFLUENCE_PAGE)


def audit_charts(audit: Audit) -> "list[Chart]":
    """The pictures of what is known.

    Args:
        audit: All that was found out.

    Returns:
        One or more.
    """
    drawn = [charts.spread_chart(audit)]
    if audit.density is not None and audit.quadrants is not None:
        drawn.append(charts.quadrant_chart(audit))
    if audit.sweep is not None:
        drawn.append(charts.sweep_chart(audit.sweep, audit.damping))
    if audit.truth is not None:
        drawn.append(charts.truth_chart(audit.truth))
    if audit.pruning is not None:
        drawn.append(charts.pruning_chart(**audit.pruning))
    if audit.slices is not None:
        one = audit.slices
        given = (one.names.tolist(), one.means, one.intervals, one.p_values)
        drawn.append(charts.slices_chart(*given, trained=audit.trained))
    return drawn


def honesty(audit: Audit) -> list[tuple[str, str]]:
    """Influence is not similarity, and not outlierness: what this run says of both.

    Args:
        audit: All that was found out.

    Returns:
        Label and text.
    """
    told = []
    compared = [one for one in audit.queries if one.rank_correlation is not None]
    if compared:
        mean = np.mean([one.rank_correlation or 0.0 for one in compared])
        text = (
            f"over the training examples, helpfulness and cosine of embeddings correlate by {mean:.2f} (Spearman, mean"
        )
        text += f" of {len(compared)} queries; 1 would be the same order)"
        shared = [one.shared_with_nearest for one in compared if one.shared_with_nearest is not None]
        if shared:
            text += f"; {np.mean(shared):.1f} of the {len(compared[0].helpful)} most helpful are among as many nearest"
        told.append(("influence is not similarity", text))
    if audit.density is not None:
        both = _rank_correlation(audit.self_influence, audit.density)
        first = max(1, round(_FIRST_SHARE * len(audit.ids)))
        alike = np.intersect1d(np.argsort(-audit.self_influence)[:first], np.argsort(-audit.density)[:first])
        text = f"self-influence and sparseness correlate by {both:.2f} (Spearman, n = {len(audit.ids):,}); of the "
        text += f"{first:,} highest by one, {len(alike):,} are among the {first:,} highest by the other"
        told.append(("influence is not outlierness", text))
    noise = _noise(audit)
    if noise is not None:
        told.append(("noise", f"squared standard errors are {100 * noise:.1f} % of the variance of self-influence"))
    if audit.checkpoints is not None:
        told.append(("one training", _over_training(audit.checkpoints)))
    return told


def caution(audit: Audit) -> str | None:
    """A warning where single values of self-influence say little.

    Args:
        audit: All that was found out.

    Returns:
        It, in words; None where there is no reason.
    """
    shown = None if audit.truth is None else of_scores(audit.truth, audit.mode)
    if shown is not None and shown.low <= 0:
        return (
            f"Training anew does not bear these scores out: {shown.name} foretells no better than chance here "
            f"(LDS {shown.score:.2f})."
        )
    noise = _noise(audit)
    if noise is None or noise < _NOISY:
        return None
    return (
        f"Mostly noise: the squared standard errors of self-influence are {100 * noise:.0f} % of its variance, so "
        "which example is above which hangs on the views that were drawn. Fit with more --num-views before single "
        "examples are judged by it."
    )


def _noise(audit: Audit) -> float | None:
    """Squared standard errors of self-influence, as a share of its variance."""
    if audit.standard_errors is None or not (audit.self_influence != 0).any():
        return None
    return float(np.square(audit.standard_errors).mean() / max(np.var(audit.self_influence), 1e-300))


def _over_training(one: Checkpoints) -> str:
    """How much of self-influence belongs to the data, and not to when training was looked at."""
    steps, last = [int(step) for step in one.steps], one.agreement[-1]
    noise = np.square(one.standard_errors).mean() / max(np.var(one.means), 1e-300)
    pairs = ", ".join(f"{last[k]:.2f} after {step:,}" for k, step in enumerate(steps[:-1]))
    return (
        f"self-influence after {steps[-1]:,} steps is ranked as earlier in the training by {pairs} steps (Spearman); "
        f"squared standard errors over {len(steps)} checkpoints are {100 * noise:.1f} % of the variance of their mean"
    )


def _rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    from scipy.stats import rankdata

    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(left), rankdata(right))[0, 1])


def influence_to_json(audit: Audit) -> dict[str, Any]:
    """The audit as a document with a stable schema, ``"schema": "repsim.influence/1"``.

    Args:
        audit: All that was found out.

    Returns:
        Plain dicts, lists, strings, finite numbers and None; scores of all examples stand in ``scores.csv``.
    """
    order = np.argsort(-audit.self_influence, kind="stable")
    named = lambda rows: [{"id": audit.ids[row], "self_influence": float(audit.self_influence[row])} for row in rows]  # noqa: E731
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "examples": len(audit.ids),
        "highest": named(order[:_EXTREMES]),
        "lowest": named(order[::-1][:_EXTREMES]),
        "honesty": dict(honesty(audit)),
        "caution": caution(audit),
        "skipped": dict(audit.skipped),
        "provenance": dict(audit.provenance),
    }
    if audit.checkpoints is not None:
        document["checkpoints"] = {
            "steps": audit.checkpoints.steps.tolist(), "agreement": audit.checkpoints.agreement.tolist(),
        }  # fmt: skip
    if audit.quadrants is not None:
        names, counts = np.unique(audit.quadrants, return_counts=True)
        document["quadrants"] = dict(zip(names.tolist(), counts.tolist(), strict=True))
    if audit.duplicates is not None:
        groups = [[audit.ids[row] for row in group] for group in audit.duplicates.groups]
        document["duplicates"] = {"groups": groups, "threshold": float(audit.duplicates.threshold),
                                  "may_be_dropped": [audit.ids[row] for row in audit.dropped]}  # fmt: skip
    if audit.truth is not None:
        verdicts = [one._asdict() for one in audit.truth.verdicts]
        document["retraining"] = audit.truth._asdict() | {"verdicts": verdicts}
    if audit.plan:
        document["collection_plan"] = [
            {"priority": one.priority, "share": one.share, "reasons": list(one.reasons),
             "shown": [audit.ids[row] for row in one.shown]}
            for one in audit.plan
        ]  # fmt: skip
    return json.loads(json.dumps(document, default=float), parse_constant=lambda _: None)


def influence_summary(audit: Audit) -> "Group":
    """What a person at a terminal wants to see of an audit.

    Args:
        audit: All that was found out.

    Returns:
        A rich renderable.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table

    order = np.argsort(-audit.self_influence, kind="stable")
    few = min(_TERMINAL_ROWS, len(order) // 2)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("example", "self-influence", "± one standard error", "percentile", "quadrant"):
        table.add_column(name, justify="left" if name in ("example", "quadrant") else "right")
    percentiles = audit.percentiles
    for row in (*order[:few], *order[len(order) - few :]):
        error = "" if audit.standard_errors is None else f"{audit.standard_errors[row]:.2g}"
        quadrant = "" if audit.quadrants is None else str(audit.quadrants[row])
        told = (
            shorten(audit.ids[row], 32),
            f"{audit.self_influence[row]:.4g}",
            error,
            f"{percentiles[row]:.0f}",
            quadrant,
        )
        table.add_row(*map(styled, told))
    table.caption = f"the {few} highest and the {few} lowest of {len(order):,}"
    warned = [] if caution(audit) is None else [styled(f"! {caution(audit)}")]
    return Group(table, *warned, *(styled(f"{label}: {text}") for label, text in honesty(audit)))


def _page(audit: Audit, drawn: dict[str, Picture], names: list[str]) -> str:
    import repsim_jax

    order = np.argsort(-audit.self_influence, kind="stable")
    shown = min(_EXTREMES, len(order) // 2)
    parts: dict[str, Any] = {
        "highest": tiles.scored(audit, order[:shown]), "lowest": tiles.scored(audit, order[::-1][:shown]),
        "quadrants": _quadrants(audit), "rare": [], "num_rare": 0, "families": [], "leaks": [],
    }  # fmt: skip
    if audit.rarity is not None:
        first = np.argsort(-audit.rarity, kind="stable")[: min(_RARE, len(order))]
        parts["rare"] = tiles.rare(audit, first)
    if audit.duplicates is not None:
        parts["families"] = [_family(audit, number) for number in range(min(_GROUPS, len(audit.duplicates.groups)))]
    if audit.leaks is not None:
        parts["leaks"] = [_leak(audit, number) for number in range(min(_LEAKS, len(audit.leaks.pairs)))]
    return environment().get_template("influence.html.j2").render(
        version=repsim_jax.__version__,
        title=audit.title,
        lead=_lead(audit),
        facts=_facts(audit),
        audit=audit,
        drawn={stem: drawn.get(stem) for stem in _CHARTS},
        meaning=_meanings(),
        wishes=[(one, tiles.scored(audit, one.shown[:_OF_QUADRANT])) for one in audit.plan[:_WISHES]],
        queries=[_query(audit, one) for one in audit.queries[:_QUERIES]],
        honesty=honesty(audit),
        caution=caution(audit),
        skipped=[(shorten(name, 80), reason) for name, reason in list(audit.skipped.items())[:_FILES]],
        selection=_selection(audit),
        files=names,
        provenance=shortened({str(label): str(text) for label, text in audit.provenance.items()}),
        count=f"{len(order):,}",
        **parts,
    )  # fmt: skip


def _meanings() -> dict[str, str]:
    """What the quadrants are, in the words of those who made them."""
    from repsim_jax.influence.curation.typicality import MEANINGS

    return MEANINGS


def _lead(audit: Audit) -> str:
    told = f"{len(audit.ids):,} examples were scored, without labels, by how much the representation "
    told += "leans on each of them." if audit.trained else "would lean on each of them, had it been trained on them."
    if audit.duplicates is not None:
        count = len(audit.duplicates.groups)
        told += f" Of duplicates, {count:,} {'group was' if count == 1 else 'groups were'} found."
    if audit.skipped:
        told += f" {len(audit.skipped):,} could not be read and were left out."
    return told


def _facts(audit: Audit) -> list[tuple[str, str]]:
    facts = [("examples", f"{len(audit.ids):,}")]
    if audit.duplicates is not None:
        facts += [
            ("duplicate groups", f"{len(audit.duplicates.groups):,}"),
            ("may be dropped", f"{len(audit.dropped):,}"),
        ]
    if audit.leaks is not None:
        facts.append(("leaks into the test set", f"{len(audit.leaks.pairs):,}"))
    if audit.truth is not None:
        shown = of_scores(audit.truth, audit.mode)
        facts += [] if shown is None else [("retraining agrees, LDS", number(shown.score, 2))]
        if shown is not None and shown.held_out is not None:
            facts.append(("of queries never trained on", number(shown.held_out, 2)))
    if audit.skipped:
        facts.append(("left out", f"{len(audit.skipped):,}"))
    return facts


def _quadrants(audit: Audit) -> list[tuple[str, int, list[Tile]]]:
    """Name, number and the most typical examples of each quadrant: those farthest from both medians."""
    if audit.quadrants is None or audit.density is None:
        return []
    ranks = [np.argsort(np.argsort(values)) / len(values) - 0.5 for values in (audit.density, audit.self_influence)]
    corner = np.minimum(np.abs(ranks[0]), np.abs(ranks[1]))
    found = []
    for name in dict.fromkeys([*_meanings(), *np.asarray(audit.quadrants).tolist()]):
        rows = np.flatnonzero(np.asarray(audit.quadrants) == name)
        if len(rows):
            first = rows[np.argsort(-corner[rows], kind="stable")][:_OF_QUADRANT]
            found.append((str(name), len(rows), tiles.scored(audit, first)))
    return found


def _query(audit: Audit, one: Ranked) -> tuple[Tile, list[Tile], list[Tile]]:
    line = [] if math.isnan(one.measurement) else [f"measures {one.measurement:.3g}"]
    query = tiles.tile(audit.query_picture or audit.picture, one.query_row, one.query_id, line)
    helpful = tiles.influential(audit, one.helpful[:_COPIES], one.helpful_values[:_COPIES])
    return query, helpful, tiles.influential(audit, one.harmful[:_COPIES], one.harmful_values[:_COPIES])


def _family(audit: Audit, number_: int) -> Family:
    found = audit.duplicates
    assert found is not None
    rows = np.asarray(found.groups[number_])
    inside = np.isin(np.asarray(found.pairs), rows).all(1) if len(found.pairs) else np.zeros(0, bool)
    kinds = sorted({str(found.kinds[k]) for k in np.flatnonzero(inside)})
    similarities = np.asarray(found.similarities, float)[inside]
    least = float(np.nanmin(similarities)) if similarities.size and np.isfinite(similarities).any() else float("nan")
    shown = tiles.scored(audit, rows[:_COPIES], marks=audit.dropped)
    return Family(shown, max(0, len(rows) - _COPIES), " and ".join(kinds), least)


def _leak(audit: Audit, number_: int) -> tuple[Tile, Tile]:
    assert audit.leaks is not None
    row, other = (int(one) for one in audit.leaks.pairs[number_])
    cosine = float(audit.leaks.similarities[number_])
    told = ("" if math.isnan(cosine) else f"cosine {cosine:.3f}, ") + str(audit.leaks.kinds[number_])
    first = tiles.tile(audit.picture, row, audit.ids[row], (told,))
    return first, tiles.tile(audit.leak_picture or (lambda _: None), other, audit.leak_ids[other], ("test set",))


def _selection(audit: Audit) -> list[tuple[str, str]]:
    if audit.selection is None:
        return []
    kept = len(audit.selection.kept)
    share = 100 * kept / len(audit.ids)
    return [("method", str(audit.selection.method)), ("kept", f"{kept:,} of {len(audit.ids):,} ({share:.0f} %)")]
