"""Can this fit of ContraSim be believed? Its diagnosis as a terminal summary, a document and one page."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.fit_charts import charts
from repsim_jax.report.sheets import environment, picture_of, shortened, write_files
from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten, styled

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from repsim_jax.similarity.contrasim import Accuracy, ContraSim, Fit

FIT_PAGE, FIT_DOCUMENT = "fit.html", "diagnosis.json"
SCHEMA = "repsim.contrasim.fit/1"
_MOST_SOURCES = 24
_NO_DIAGNOSIS = "No diagnosis was made: nothing is known about what its scores mean."


def write_fit(fit: "Fit", out: str | os.PathLike[str], *, provenance: Mapping[str, str] | None = None) -> Path:
    """Writes the page of a fit, its pictures and its document (``diagnosis.json``) into a folder.

    Args:
        fit: From ``contrasim.fit``.
        out: The folder, made where it does not exist; the measure itself is written there by ``contrasim.save``.
        provenance: How the fit came about, as label and text.

    Returns:
        Path of the page.

    Raises:
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
    """
    drawn = [picture_of(chart, chart.figure) for chart in charts(fit.measure, np.asarray(fit.losses, float))]
    files = {path: content for picture in drawn for path, content in picture.files.items()}
    files[FIT_DOCUMENT] = json.dumps(fit_to_json(fit, provenance=provenance), indent=1, allow_nan=False).encode()
    files[FIT_PAGE] = _page(fit.measure, drawn, provenance or {}).encode()
    return write_files(Path(out), files, page=FIT_PAGE)


def fit_to_json(fit: "Fit", *, provenance: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A fit as a document with a stable schema, ``"schema": "repsim.contrasim.fit/1"``.

    Args:
        fit: From ``contrasim.fit``.
        provenance: How the fit came about, as label and text.

    Returns:
        Plain dicts, lists, strings, finite numbers and None.
    """
    from repsim_jax.similarity.contrasim.files import diagnosis_to_json

    measure = fit.measure
    return {
        "schema": SCHEMA,
        "diagnosis": diagnosis_to_json(measure.diagnosis),
        "options": measure.options.to_json(),
        "training": measure.settings,
        "sources": [{"name": name, **source._asdict()} for name, source in measure.sources.items()],
        "anchor_ids": list(measure.anchor_ids),
        "losses": [round(float(loss), 6) if np.isfinite(loss) else None for loss in np.asarray(fit.losses)],
        "provenance": dict(provenance or {}),
    }


def fit_summary(measure: "ContraSim") -> "Group":
    """What a person at an 80-column terminal wants to see of a fit.

    Args:
        measure: With its diagnosis, or without.

    Returns:
        A rich renderable, in which no user text is interpreted.
    """
    from rich.console import Group
    from rich.text import Text

    found = measure.diagnosis
    parts: list[Any] = [styled(fit_heading(measure), "bold"), Text()]
    if found is None:
        return Group(*parts, styled(_NO_DIAGNOSIS, "yellow"))
    parts += [styled(f"Task: {found.task}"), _accuracy_table(measure)]
    parts += [
        styled(
            f"Scores: positives {number(found.positive_mean, 2)}, negatives {number(found.negative_mean, 2)}, "
            f"positives with permuted rows {number(found.chance_mean, 2)} (95 % below {number(found.chance_high, 2)})."
        )
    ]
    if found.sensitivity:
        told = ", ".join(f"{shorten(name, 24)} {100 * change:+.0f}" for name, change in found.sensitivity.items())
        parts.append(styled(f"Without one of them, in percentage points among the others: {told}."))
    parts += [Text(), styled("Verdict", "bold"), *(Text("- ").append(styled(sentence)) for sentence in found.verdict)]
    return Group(*parts)


def fit_heading(measure: "ContraSim") -> str:
    """The title of a fit.

    Args:
        measure: What was fitted.

    Returns:
        "ContraSim fitted on A, B and 3 more sources".
    """
    names = [shorten(name, 30) for name, source in measure.sources.items() if not source.held_out]
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"ContraSim fitted on {listed}"


def accuracy_rows(measure: "ContraSim") -> "list[tuple[str, Accuracy]]":
    """What the diagnosis counted, from the whole to each source.

    Args:
        measure: With its diagnosis.

    Returns:
        Label and accuracy; empty without a diagnosis.
    """
    found = measure.diagnosis
    if found is None:
        return []
    rows = [("training examples, fitted sources", found.training), ("new examples, fitted sources", found.seen)]
    rows += [("new examples, held-out sources", found.unseen)] if found.unseen is not None else []
    for name, one in list(found.by_source.items())[:_MOST_SOURCES]:
        rows.append((f"{name}{' (held out)' if measure.sources[name].held_out else ''}", one))
    return rows


def _accuracy_table(measure: "ContraSim") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("right on", no_wrap=True)
    for name in ("share", "95 % interval", "chance", "decisions"):
        table.add_column(name, justify="right")
    for label, one in accuracy_rows(measure):
        interval = f"{one.low:.0%} to {one.high:.0%}"
        table.add_row(styled(shorten(label, 36)), f"{one.share:.0%}", interval, f"{one.chance:.1%}", f"{one.total:,}")
    return table


def _page(measure: "ContraSim", drawn: list[Any], provenance: Mapping[str, str]) -> str:
    import repsim_jax

    found = measure.diagnosis
    pictures = {picture.panel.stem: picture for picture in drawn}
    return environment().get_template("fit.html.j2").render(
        version=repsim_jax.__version__,
        title=fit_heading(measure),
        found=found,
        lead=found.verdict[0] if found and found.verdict else _NO_DIAGNOSIS,
        facts=_facts(measure),
        pictures=pictures,
        accuracies=[(label, one, f"{100 * one.share:.1f}") for label, one in accuracy_rows(measure)],
        left_out=0 if found is None else max(len(found.by_source) - _MOST_SOURCES, 0),
        sources=list(measure.sources.items()),
        settings=shortened(_settings(measure)),
        provenance=shortened({str(label): str(text) for label, text in provenance.items()}),
    )  # fmt: skip


def _facts(measure: "ContraSim") -> list[tuple[str, str]]:
    found, settings = measure.diagnosis, measure.settings
    facts = [("sources", str(len(measure.sources)))]
    facts += [("training examples", f"{settings['training_examples']:,}")] if "training_examples" in settings else []
    if found is None:
        return facts
    facts += [("right, fitted sources", f"{found.seen.share:.0%}")]
    facts += [("right, held-out sources", f"{found.unseen.share:.0%}")] if found.unseen is not None else []
    return [*facts, ("chance", f"{found.seen.chance:.1%}"), ("score by chance", number(found.chance_mean, 2))]


def _settings(measure: "ContraSim") -> dict[str, str]:
    told = {**measure.options.to_json(), **measure.settings}
    told |= {"anchors": len(measure.anchor_ids)} if measure.anchor_ids else {}
    return {str(name).replace("_", " "): str(value) for name, value in told.items()}
