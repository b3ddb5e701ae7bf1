"""One self-contained HTML page about a comparison, with its pictures and tables as files beside it."""

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repsim_jax.errors import FileError, NoSpaceError
from repsim_jax.report import panels, plots, words
from repsim_jax.report.findings import digest
from repsim_jax.report.tables import number, to_csv, to_json
from repsim_jax.report.text import printable

if TYPE_CHECKING:
    from repsim_jax.evaluation.gate import GateResult
    from repsim_jax.report.findings import Digest
    from repsim_jax.report.panels import Panel
    from repsim_jax.similarity.comparison import Comparison

PAGE, TABLE, DOCUMENT, PICTURES = "report.html", "table.csv", "comparison.json", "figures"
# Enough to see the shape of the table; more would only make the page heavy.
_ROWS_ON_PAGE = 60
_LONGEST_TEXT = 1200  # of a store's metadata, say; comparison.json has all of it
_CSS_PIXELS_PER_INCH = 96 * 1.15  # pictures are drawn with 8-point letters; on the page they read best a little larger


class Picture(NamedTuple):
    """A panel, drawn.

    Attributes:
        panel: What it shows.
        light: The light SVG as a data URI.
        dark: The dark SVG as a data URI.
        png: Path of the PNG file, relative to the page.
        svg: Path of the SVG file, relative to the page.
        width: Natural width in CSS pixels.
        height: Natural height in CSS pixels.
        files: Bytes by relative path.
    """

    panel: "Panel"
    light: str
    dark: str
    png: str
    svg: str
    width: int
    height: int
    files: dict[str, bytes]


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
    return _page(found, _pictures(found), title, gate, provenance or {})


def write(
    comparison: "Comparison",
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    gate: "GateResult | None" = None,
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Writes the page, its pictures (PNG and SVG), the table (CSV) and the document (JSON) into a folder.

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
    drawn = _pictures(found)
    document = to_json(found, gate=gate, provenance=dict(provenance or {}))
    files = {path: content for picture in drawn for path, content in picture.files.items()}
    files[TABLE] = to_csv(comparison).encode()
    files[DOCUMENT] = json.dumps(document, indent=1, allow_nan=False).encode()
    files[PAGE] = _page(found, drawn, title, gate, provenance or {}).encode()
    try:
        _write_all(Path(out), files)
    except OSError as error:
        kind = NoSpaceError if error.errno in (28, 122) else FileError  # ENOSPC, EDQUOT
        raise kind(out, f"the report cannot be written: {error.strerror or error}.") from error
    return Path(out) / PAGE


def _write_all(out: Path, files: dict[str, bytes]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".repsim-", dir=out) as folder:
        fresh = Path(folder)
        (fresh / PICTURES).mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        (out / PAGE).unlink(missing_ok=True)
        if (out / PICTURES).exists():
            os.replace(out / PICTURES, fresh / "old")
        os.replace(fresh / PICTURES, out / PICTURES)
        for name in (TABLE, DOCUMENT, PAGE):
            os.replace(fresh / name, out / name)
        shutil.rmtree(fresh / "old", ignore_errors=True)


def _pictures(found: "Digest") -> list[Picture]:
    return [_picture(panel) for panel in panels.panels(found)]


def _picture(panel: "Panel") -> Picture:
    png, svg = plots.encode(plots.draw(panel, plots.LIGHT))
    dark = plots.recolored(svg, plots.LIGHT, plots.DARK)
    width, height = _natural_size(svg)
    base = f"{PICTURES}/{panel.stem}"
    files = {f"{base}.svg": svg, f"{base}.png": png}
    return Picture(panel, _data_uri(svg), _data_uri(dark), f"{base}.png", f"{base}.svg", width, height, files)


def _natural_size(svg: bytes) -> tuple[int, int]:
    """Width and height of one of our SVGs, which matplotlib states in points."""
    opening = svg[svg.index(b"<svg") :].split(b">", 1)[0].decode()
    points = [float(opening.split(f' {side}="', 1)[1].split("pt", 1)[0]) for side in ("width", "height")]
    return round(points[0] / 72 * _CSS_PIXELS_PER_INCH), round(points[1] / 72 * _CSS_PIXELS_PER_INCH)


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _page(
    found: "Digest", drawn: list[Picture], title: str | None, gate: "GateResult | None", provenance: Mapping[str, str]
) -> str:
    import repsim_jax

    comparison, lead = found.comparison, found.lead
    heat = {picture.panel.stem: picture for picture in drawn[: len(found.readings)]}
    lead_picture = heat.pop(panels.heat_panel(found, lead).stem)
    name_a, name_b = words.names(found)
    return _environment().get_template("page.html.j2").render(
        version=repsim_jax.__version__,
        title=title or words.heading(found),
        verdict=words.verdict(found),
        facts=_facts(found),
        gate=gate,
        readings=found.readings,
        ranked=found.ranked,
        lead=lead,
        lead_picture=lead_picture,
        path_kind=panels.path_kind(lead_picture.panel),
        heat_maps=list(heat.values()),
        across=drawn[len(found.readings) :],
        parted=found.disagreements,
        nearest=_nearest(found),
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


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("repsim_jax.report"),
        autoescape=True,  # always: select_autoescape would leave *.j2 as they are
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["number"] = number
    return environment


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
    return [(label, text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…") for label, text in told.items()]
