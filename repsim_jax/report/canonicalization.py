"""How far can a canonicalizer be trusted, and what does it cost? One page with pictures, its tables, and a summary."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repsim_jax.report import pose_charts as charts
from repsim_jax.report import tiles
from repsim_jax.report.columns import columns_to_csv
from repsim_jax.report.sheets import Picture, environment, picture_of, shortened, write_files
from repsim_jax.report.text import shorten, styled
from repsim_jax.report.tiles import Tile

if TYPE_CHECKING:
    from rich.console import Group as Lines

    from repsim_jax.canonicalization import Canonicalizer, Caution, Diversity, Equivariance, Latency
    from repsim_jax.report.row_charts import Chart

CANONICALIZATION_PAGE, CANONICALIZATION_DOCUMENT = "canonicalization.html", "canonicalization.json"
SCHEMA = "repsim.canonicalization/1"
_MOST_POSES = 16
_CHARTS = ("accuracy", "elements", "margins", "latency", "poses", "curve")


class PosedExample(NamedTuple):
    """An input in all poses, as the energy sees them.

    Attributes:
        name: Its id.
        image: As it came, uint8.
        canonical: Under the inverse of its element, uint8.
        views: (g) its views by the inverse of each element, uint8.
        energies: (g,) of them; infinite where a coarse search did not look.
        index: The element that was chosen.
        margin: Of the choice.
        told: What else to say, such as its classes.
    """

    name: str
    image: np.ndarray
    canonical: np.ndarray
    views: tuple[np.ndarray, ...]
    energies: np.ndarray
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    margin: float
    told: str = ""


class PoseAudit(NamedTuple):
    """All that was found out about a canonicalizer.

    Attributes:
        equivariance: Of the wrapped model on test inputs.
        model: What the model is, in words.
        latency: Of both; None where it was not measured.
        diversity: Of the data; None where it was not looked at.
        cautions: Warnings.
        element_names: Of the group.
        orbits: Examples with all their poses.
        failures: The worst examples with all their poses.
        chosen: Further examples, before and after.
        curve_of: What the learning curve measures.
        title: Heading of the page.
        skipped: {id: reason} of what could not be read.
        provenance: How it came about.
    """

    equivariance: "Equivariance"
    model: str
    latency: "Latency | None"
    diversity: "Diversity | None"
    cautions: "Sequence[Caution]"
    element_names: list[str]
    orbits: tuple[PosedExample, ...] = ()
    failures: tuple[PosedExample, ...] = ()
    chosen: tuple[PosedExample, ...] = ()
    curve_of: str = "held-out images left as they are"
    title: str = "Can this canonicalizer be trusted?"
    skipped: Mapping[str, str] = {}
    provenance: Mapping[str, Any] = {}


def posed_examples(
    canonicalizer: "Canonicalizer", names: Sequence[str], x: np.ndarray, told: Sequence[str] = ()
) -> tuple[PosedExample, ...]:
    """Examples in all poses, for a page.

    Args:
        canonicalizer: Of images.
        names: Their ids.
        x: Images (n, h, w, 1 or 3); a few.
        told: What else to say of each.

    Returns:
        One for each.
    """
    import jax

    from repsim_jax.canonicalization.canonicalizers import orbit_views, shown

    @jax.jit
    def look(canonicalizer: Any, x: jax.Array) -> Any:
        views = orbit_views(canonicalizer, canonicalizer.group, shown(canonicalizer, x))
        return views, canonicalizer(x)

    if not len(x):
        return ()
    views, found = jax.tree.map(np.asarray, look(canonicalizer, np.asarray(x)))
    low, high = float(x.min()), float(x.max())

    def drawn(image: np.ndarray) -> np.ndarray:
        return np.rint(255 * np.clip((image - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)

    return tuple(
        PosedExample(
            str(names[k]), drawn(x[k]), drawn(found.canonical[k]), tuple(drawn(one) for one in views[:, k]),
            found.energies[k], int(found.elements.index[k]), float(found.margin[k]), told[k] if told else "",
        )
        for k in range(len(x))
    )  # fmt: skip


def write_canonicalization(audit: PoseAudit, out: str | os.PathLike[str]) -> Path:
    """Writes the page, its pictures, the tables (CSV) and the document (JSON) into a folder.

    Args:
        audit: All that was found out.
        out: The folder, made where it does not exist; files of an earlier page are replaced, others left alone.

    Returns:
        Path of the page.

    Raises:
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
        MissingPackageError: If Pillow or matplotlib is not installed.
    """
    drawn = {chart.stem: picture_of(chart, chart.figure) for chart in pose_audit_charts(audit)}
    files = {path: content for one in drawn.values() for path, content in one.files.items()}
    tables = {
        "elements": _columns(audit.equivariance.by_element()),
        "margins": _columns(audit.equivariance.by_margin()),
    }
    if audit.latency is not None:
        tables["latency"] = _columns(audit.latency.timings)
    for name, columns in tables.items():
        files |= {f"{name}.csv": columns_to_csv(columns)} if columns else {}
    document = json.dumps(canonicalization_to_json(audit), indent=1, allow_nan=False)
    files[CANONICALIZATION_DOCUMENT] = (document + "\n").encode()
    names = sorted(name for name in files if "/" not in name)
    files[CANONICALIZATION_PAGE] = _page(audit, drawn, names).encode()
    return write_files(Path(out), files, page=CANONICALIZATION_PAGE)


def pose_audit_charts(audit: PoseAudit) -> "list[Chart]":
    """The pictures of what is known.

    Args:
        audit: All that was found out.

    Returns:
        One or more.
    """
    found = audit.equivariance
    drawn = [charts.element_chart(found, audit.element_names)]
    if found.repaired.agrees is not None:
        drawn.append(charts.accuracy_chart(found))
    if found.by_margin():
        drawn.append(charts.margin_chart(found))
    if audit.latency is not None:
        drawn.append(charts.latency_chart(audit.latency))
    if audit.diversity is not None:
        drawn.append(charts.poses_chart(audit.diversity, audit.element_names))
        if audit.diversity.curve is not None:
            drawn.append(charts.curve_chart(audit.diversity.curve, audit.curve_of))
    return drawn


def _columns(rows: Sequence[Any]) -> dict[str, np.ndarray]:
    """Rows of one kind as columns; what is None is left out."""
    if not rows:
        return {}
    columns = {name: [getattr(row, name) for row in rows] for name in rows[0]._fields}
    return {name: np.asarray(column) for name, column in columns.items() if column[0] is not None}


def canonicalization_to_json(audit: PoseAudit) -> dict[str, Any]:
    """The audit as a document with a stable schema, ``"schema": "repsim.canonicalization/1"``.

    Args:
        audit: All that was found out.

    Returns:
        Plain dicts, lists, strings, finite numbers and None.
    """
    found = audit.equivariance
    document: dict[str, Any] = {
        "schema": SCHEMA, "group": found.group.name, "model": audit.model, "examples": found.followed.shape[1],
        "interpolation": found.interpolation, "ties": found.num_tied, "upright_drop": found.upright_drop,
        "ways": [
            {"name": way.name, "upright": way.upright, "orbit": way.orbit, "mean_error": way.errors.mean(),
             "max_error": way.errors.max(), "agrees": None if way.agrees is None else way.agrees.mean()}
            for way in found.ways
        ],
        "elements": [row._asdict() for row in found.by_element()],
        "margins": [row._asdict() for row in found.by_margin()],
        "cautions": [one._asdict() for one in audit.cautions],
        "skipped": dict(audit.skipped), "provenance": dict(audit.provenance),
    }  # fmt: skip
    if audit.latency is not None:
        document["latency"] = [one._asdict() for one in audit.latency.timings]
        document["latency_ratio"] = {str(batch): audit.latency.ratio(batch) for batch in audit.latency.batches}
    if audit.diversity is not None:
        parts, curve = audit.diversity, audit.diversity.curve
        document["diversity"] = {
            "train": _poses(parts.train), "test": None if parts.test is None else _poses(parts.test),
            "shift": parts.shift, "copies": parts.copies,
            "curve": None if curve is None else curve._asdict() | {"per_doubling": curve.per_doubling},
        }  # fmt: skip
    return json.loads(json.dumps(document, default=_plain), parse_constant=lambda _: None)


def _poses(poses: Any) -> dict[str, Any]:
    return poses._asdict() | {"counts": poses.counts.tolist(), "margins": poses.margins.tolist()}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else float(value)


def canonicalization_summary(audit: PoseAudit) -> "Lines":
    """What a person at a terminal wants to see of an audit.

    Args:
        audit: All that was found out.

    Returns:
        A rich renderable.
    """
    from rich import box
    from rich.console import Group as Lines
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("way", "as they came", "mean over elements", "mean error"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for name, upright, orbit, _, error in _ways(audit):
        table.add_row(*map(styled, (name, upright, orbit, error)))
    lines = [styled(f"Warning, {one.name}: {one.told}") for one in audit.cautions]
    ratios = [] if audit.latency is None else [
        styled(f"The canonicalizer takes {audit.latency.ratio(batch):.2f} times as long as the model at batch {batch}.")
        for batch in audit.latency.batches
    ]  # fmt: skip
    return Lines(table, *ratios, *lines)


def _ways(audit: PoseAudit) -> list[tuple[str, str, str, str, str]]:
    """Name, upright and orbit accuracy, share of unchanged classes, error over scale."""
    told = []
    scale = max(audit.equivariance.scale, 1e-30)
    for way in audit.equivariance.ways:
        shares = [way.upright, way.orbit, None if way.agrees is None else float(way.agrees.mean())]
        texts = ["" if share is None else f"{100 * share:.1f} %" for share in shares]
        error = way.errors.mean() / scale
        told.append((way.name, texts[0], texts[1], texts[2], "0" if error == 0 else f"{error:.2g}"))
    return told


def _page(audit: PoseAudit, drawn: dict[str, Picture], names: list[str]) -> str:
    import repsim_jax

    found = audit.equivariance
    return environment().get_template("canonicalization.html.j2").render(
        version=repsim_jax.__version__,
        title=audit.title,
        lead=_lead(audit),
        facts=_facts(audit),
        audit=audit,
        drawn={stem: drawn.get(stem) for stem in _CHARTS},
        ways=_ways(audit),
        rows=list(zip(audit.element_names, found.by_element(), strict=True)),
        orbits=[_orbit(audit, one) for one in audit.orbits],
        failures=[_orbit(audit, one) for one in audit.failures],
        chosen=[_pair(audit, one) for one in audit.chosen],
        data=_data(audit),
        skipped=[(shorten(name, 80), reason) for name, reason in audit.skipped.items()],
        files=names,
        provenance=shortened({str(label): str(text) for label, text in audit.provenance.items()}),
    )  # fmt: skip


def _lead(audit: PoseAudit) -> str:
    found, num = audit.equivariance, len(audit.cautions)
    told = f"{found.followed.shape[1]:,} test images were put under all {found.group.order} elements of "
    told += f"{found.group.name}, and the answers compared. Model: {audit.model}. "
    return told + ("Nothing to warn of." if num == 0 else "One warning." if num == 1 else f"{num} warnings.")


def _facts(audit: PoseAudit) -> list[tuple[str, str]]:
    found = audit.equivariance
    facts = [("group", found.group.name), ("poses that follow", f"{100 * found.followed.mean():.1f} %")]
    if found.repaired.orbit is not None:
        facts.append(("accuracy over the orbit", f"{100 * found.repaired.orbit:.1f} %"))
    if found.upright_drop is not None:
        facts.append(("upright accuracy lost", f"{100 * found.upright_drop:.1f} points"))
    if audit.latency is not None:
        batch = audit.latency.batches[-1]
        facts.append((f"time over the model's, batch {batch}", f"{audit.latency.ratio(batch):.2f}"))
    if audit.diversity is not None:
        facts.append(("left as they are", f"{100 * audit.diversity.train.identity_rate:.1f} %"))
    return facts


def _data(audit: PoseAudit) -> list[tuple[str, str, str]]:
    """Label, training and test."""
    found = audit.diversity
    if found is None:
        return []
    from repsim_jax.canonicalization.diversity import QUANTILES

    both = [found.train, *([] if found.test is None else [found.test])]
    margins = [f"{one.margins[QUANTILES.index(0.1)]:.3f}, {one.median_margin:.3f}" for one in both]
    rows = [
        ("images", *(f"{one.num:,}" for one in both)),
        ("left as they are", *(f"{100 * one.identity_rate:.1f} %" for one in both)),
        ("elements that were chosen at all", *(f"{100 * one.coverage:.0f} %" for one in both)),
        ("entropy of the poses (1: even)", *(f"{one.entropy:.3f}" for one in both)),
        ("margin: tenth, median", *margins),
        ("self-symmetric", *(f"{100 * one.symmetric:.1f} %" for one in both)),
        ("with a near copy", f"{100 * found.copies:.1f} %"),
    ]
    return [(row[0], row[1], row[2] if len(row) > 2 else "") for row in rows]


def _orbit(audit: PoseAudit, one: PosedExample) -> tuple[Tile, list[Tile], str]:
    def made(image: np.ndarray, name: str, lines: Sequence[str], mark: str = "") -> Tile:
        return tiles.tile(lambda _: tiles.as_picture(image), 0, name, lines, mark)

    own = made(one.image, one.name, (f"margin {one.margin:.3f}", *((one.told,) if one.told else ())))
    order = range(min(len(one.views), _MOST_POSES))
    poses = [
        made(one.views[k], audit.element_names[k],
             ("not looked at" if np.isinf(one.energies[k]) else f"energy {one.energies[k]:.3f}",),
             "chosen" if k == one.index else "")
        for k in order
    ]  # fmt: skip
    return own, poses, audit.element_names[one.index]


def _pair(audit: PoseAudit, one: PosedExample) -> tuple[Tile, Tile]:
    before = tiles.tile(lambda _: tiles.as_picture(one.image), 0, one.name, ("as it came",))
    after = tiles.tile(
        lambda _: tiles.as_picture(one.canonical), 0, one.name, (f"turned back by {audit.element_names[one.index]}",)
    )
    return before, after
