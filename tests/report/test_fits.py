"""The page of a fit: what the diagnosis says, on paper; names do nothing, and nothing sticks out."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import pytest
from browser import BINARY, Browser
from comparisons import HOSTILE
from rich.console import Console

from repsim_jax.report import fit_summary, fit_to_json, write_fit
from repsim_jax.report.fit_charts import charts
from repsim_jax.similarity.contrasim import ContraSim, Diagnosis, Fit, Options, wilson
from repsim_jax.similarity.contrasim.measure import FittedSource

LOSSES = jnp.exp(-jnp.arange(50) / 20)


def made_up(names: tuple[str, ...] = ("seed-0", "seed-1", "seed-2"), *, unseen: bool = True, **changes: object) -> Fit:
    """A fit that never was: the last source is held out."""
    sources = {
        name: FittedSource(
            (f"layer of {name}", "head"), (8, 8), "a" * 64 if k else None, unseen and k == len(names) - 1
        )
        for k, name in enumerate(names)
    }
    found = Diagnosis(
        task="which layer is which?",
        training=wilson(60, 60, chance=0.2),
        seen=wilson(57, 60, chance=0.2),
        unseen=wilson(30, 60, chance=0.2) if unseen else None,
        by_source={name: wilson(40, 60, chance=0.2) for name in names},
        chance_mean=0.4,
        chance_high=0.6,
        positive_mean=0.9,
        negative_mean=-0.1,
        positives=(1, 1, 2),
        negatives=8,
        effective_examples=12.0,
        twins=0.0,
        sensitivity={name: 0.01 - 0.2 * k for k, name in enumerate(names[:-1])},
        verdict=(f"Carries over to {names[-1]}.", f"Rests on {names[0]}."),
    )
    settings = {"training_examples": 100, "num_steps": 50}
    return Fit(ContraSim({}, Options(), sources, (), diagnosis=found._replace(**changes), settings=settings), LOSSES)


def told(fit: Fit) -> str:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=100, record=True, file=nowhere)
        console.print(fit_summary(fit.measure))
        return console.export_text()


def test_the_page_and_its_document_say_what_was_found(tmp_path: Path):
    fit = made_up()
    page = write_fit(fit, tmp_path / "out", provenance={"command": "repsim contrasim fit"}).read_text()
    for text in (
        "ContraSim fitted on seed-0, seed-1",
        "95.0 %",
        "50.0 %",
        "Carries over to seed-2.",
        "held out",
        "0.40",
    ):
        assert text in page
    document = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert document == json.loads(json.dumps(fit_to_json(fit, provenance={"command": "repsim contrasim fit"})))
    assert document["diagnosis"]["unseen"]["share"] == 0.5
    assert [chart.stem for chart in charts(fit.measure, LOSSES)] == [
        "losses",
        "accuracies",
        "calibration",
        "sensitivity",
    ]
    assert {one.name for one in (tmp_path / "out" / "figures").iterdir()} == {
        f"{stem}.{kind}" for stem in ("losses", "accuracies", "calibration", "sensitivity") for kind in ("png", "svg")
    }


def test_the_summary_tells_seen_from_unseen(tmp_path: Path):
    text = told(made_up())
    assert "new examples, fitted sources 95%" in " ".join(text.split())
    assert "seed-2 (held out)" in text
    assert "positives with permuted rows 0.40 (95 % below 0.60)" in text
    assert "held-out sources" not in told(made_up(unseen=False))


def test_what_is_not_known_is_not_shown(tmp_path: Path):
    fit = made_up(unseen=False, sensitivity={}, negative_mean=float("nan"), verdict=())
    page = write_fit(fit, tmp_path).read_text()
    assert "right, held-out sources" not in page
    assert json.loads((tmp_path / "diagnosis.json").read_text())["diagnosis"]["negative_mean"] is None
    blind = Fit(ContraSim({}, Options(), fit.measure.sources), LOSSES)
    assert "No diagnosis was made" in write_fit(blind, tmp_path).read_text()
    assert "No diagnosis was made" in told(blind)
    assert sorted(one.name for one in (tmp_path / "figures").iterdir()) == ["losses.png", "losses.svg"]


def test_many_sources_are_cut_and_counted(tmp_path: Path):
    page = write_fit(made_up(tuple(f"seed-{k}" for k in range(40))), tmp_path).read_text()
    assert "16 more sources are in diagnosis.json" in page


def test_no_name_acts(tmp_path: Path):
    fit = made_up(HOSTILE)
    page = write_fit(fit, tmp_path, provenance={name: name for name in HOSTILE}).read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not set(page + told(fit)) & set("\x1b\x07\x9b")


@pytest.mark.skipif(BINARY is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_never_scrolls_sideways_and_runs_nothing(tmp_path: Path, width: int):
    pages = [write_fit(made_up(names), tmp_path / str(k)) for k, names in enumerate((HOSTILE, ("a", "b", "c")))]
    with Browser(tmp_path / "profile") as browser:
        for page in pages:
            browser.open(page, width=width)
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.value("document.scripts.length") == 0
            assert browser.value("document.title").startswith("ContraSim fitted on ")
            browser.screenshot(tmp_path / f"{page.parent.name}.png")
