"""One self-contained HTML page about a comparison, with its pictures and tables as files beside it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim_jax.report import panels, plots, words
from repsim_jax.report.changes import EXAMPLES, changed_most, changes_chart, changes_to_csv
from repsim_jax.report.findings import digest
from repsim_jax.report.sheets import Picture, environment, picture_of, shortened, write_files
from repsim_jax.report.tables import number, to_csv, to_json

if TYPE_CHECKING:
    from repsim_jax.evaluation.gate import GateResult
    from repsim_jax.report.findings import Digest
    from repsim_jax.similarity.comparison import Comparison

PAGE, TABLE, DOCUMENT = "report.html", "table.csv", "comparison.json"
# Enough to see the shape of the table; more would only make the page heavy.
_ROWS_ON_PAGE = 60


def render(
    comparison: "Comparison",
    *,
    title: str | None = None,
    gate: "GateResult | None" = None,
    provenance: Mapping[str, str] | None = None,
) -> str:
    """The page as one string that needs no other file, runs no script and loads nothing.

    Args:
        comparison: All layer pairs under registered measures.
        title: Heading; "How alike are A and B?" where None.
        gate: The verdict of a policy, if one was asked for.
        provenance: How the numbers came about, as label and text.

    Returns:
        HTML, with every name escaped.

    Raises:
        UnknownNameError: If a measure is not registered.
    """
    found = digest(comparison)
    return _page(found, _pictures(found), _changes(found), title, gate, provenance or {})


def write(
    comparison: "Comparison",
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    gate: "GateResult | None" = None,
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Writes the page, its pictures (PNG and SVG), the tables (CSV) and the document (JSON) into a folder.

    Everything is written under temporary names first and then moved, the page last: a page that is there is whole.

    Args:
        comparison: All layer pairs under registered measures.
        out: The folder, made where it does not exist; files of an earlier report are replaced, others left alone.
        title: Heading; "How alike are A and B?" where None.
        gate: The verdict of a policy, if one was asked for.
        provenance: How the numbers came about, as label and text.

    Returns:
        Path of the page.

    Raises:
        UnknownNameError: If a measure is not registered.
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
    """
    found = digest(comparison)
    drawn, changed = _pictures(found), _changes(found)
    document = to_json(found, gate=gate, provenance=dict(provenance or {}))
    pictures = drawn if changed is None else [*drawn, changed]
    files = {path: content for picture in pictures for path, content in picture.files.items()}
    if comparison.by_example is not None:
        files[EXAMPLES] = changes_to_csv(comparison.by_example).encode()
    files[TABLE] = to_csv(comparison).encode()
    files[DOCUMENT] = json.dumps(document, indent=1, allow_nan=False).encode()
    files[PAGE] = _page(found, drawn, changed, title, gate, provenance or {}).encode()
    return write_files(Path(out), files, page=PAGE)


def _pictures(found: "Digest") -> list[Picture]:
    return [picture_of(panel, plots.draw(panel, plots.LIGHT)) for panel in panels.panels(found)]


def _changes(found: "Digest") -> Picture | None:
    chart = changes_chart(found)
    return None if chart is None else picture_of(chart, chart.figure)


def _page(
    found: "Digest",
    drawn: list[Picture],
    changed: Picture | None,
    title: str | None,
    gate: "GateResult | None",
    provenance: Mapping[str, str],
) -> str:
    import repsim_jax
    from repsim_jax import similarity

    comparison, lead = found.comparison, found.lead
    by_example = comparison.by_example
    heat = {picture.panel.stem: picture for picture in drawn[: len(found.readings)]}
    lead_picture = heat.pop(panels.heat_panel(found, lead).stem)
    name_a, name_b = words.names(found)
    return environment().get_template("page.html.j2").render(
        version=repsim_jax.__version__,
        title=title or words.heading(found),
        verdict=words.verdict(found),
        facts=_facts(found),
        gate=gate,
        readings=found.readings,
        ranked=found.ranked,
        lead=lead,
        lead_picture=lead_picture,
        path_kind=panels.path_kind(panels.heat_panel(found, lead)),
        heat_maps=list(heat.values()),
        across=drawn[len(found.readings) :],
        parted=found.disagreements,
        nearest=_nearest(found),
        changed=changed,
        changed_by=similarity.measure(by_example.measure).title if by_example else None,
        moved=changed_most(by_example) if by_example else [],
        conclusions=words.conclusions(found),
        name_a=name_a,
        name_b=name_b,
        layers_a=comparison.layers_a,
        layers_b=comparison.layers_b,
        num_examples=f"{comparison.num_examples:,}",
        num_pairs=lead.matrix.size,
        num_rows=f"{len(comparison):,}",
        rows=[row for row, _ in zip(comparison.rows(), range(_ROWS_ON_PAGE), strict=False)],
        provenance=_provenance(comparison, provenance),
    )  # fmt: skip


def _facts(found: "Digest") -> list[tuple[str, str]]:
    comparison = found.comparison
    facts = [
        ("examples", f"{comparison.num_examples:,}"),
        ("layers compared", f"{len(comparison.layers_a)} \N{MULTIPLICATION SIGN} {len(comparison.layers_b)}"),
        (f"{found.lead.title}, best path", number(found.lead.path.mean, 2)),
        (f"{found.lead.title}, all pairs", number(float(found.lead.matrix.mean()), 2)),
    ]
    if len(found.readings) > 1:
        facts.append((f"agreement of {len(found.readings)} measures", number(found.mean_correlation, 2)))
    return facts


def _nearest(found: "Digest") -> list[dict[str, Any]]:
    comparison, lead = found.comparison, found.lead
    low, high = panels.heat_panel(found, lead).limits
    rows = []
    for i, layer in enumerate(comparison.layers_a):
        value = float(lead.best.values[i])
        share = 100 * min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 100.0
        rows.append(
            {
                "layer_a": layer,
                "layer_b": comparison.layers_b[lead.best.layers[i]],
                "value": value,
                "share": f"{share if lead.larger_is_more_similar else 100 - share:.1f}",
                "margin": float(lead.best.margins[i]),
                "on_path": comparison.layers_b[lead.path.layers[i]],
            }
        )
    return rows


def _provenance(comparison: "Comparison", provenance: Mapping[str, str]) -> list[tuple[str, str]]:
    told = {"first": comparison.name_a, "second": comparison.name_b, "examples": f"{comparison.num_examples:,}"}
    told |= {str(label): str(text) for label, text in provenance.items()}
    for key, value in comparison.settings.items():
        told[str(key).replace("_", " ")] = value if isinstance(value, str) else json.dumps(value, default=str)
    return shortened(told)
