"""The page of a canonicalizer shows what was found, escapes names, and its document holds finite numbers."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from repsim_jax import canonicalization as canon
from repsim_jax.canonicalization.equivariance import ALONE, REPAIRED, Way
from repsim_jax.report import (
    PoseAudit,
    PosedExample,
    canonicalization_summary,
    canonicalization_to_json,
    write_canonicalization,
)

C4, N = canon.cyclic(4), 20


def audit(**others: Any) -> PoseAudit:
    generator = np.random.default_rng(0)
    right = generator.uniform(size=(4, N)) < 0.6
    ways = (Way(REPAIRED, np.zeros((4, N)), np.ones((4, N), bool), right), Way(ALONE, np.ones((4, N)), right, right))
    margins = generator.uniform(size=N)
    answers = canon.Equivariance(C4, "none", ways, np.ones((4, N), bool), margins, np.ones(N, int), 2.0)
    part = canon.Timing("canonicalizer in all", 1, 0.2, 0.3, 1.0, float("nan"))
    timings = (part, part._replace(name="model alone", median_ms=0.1))
    poses = canon.Poses(np.array([15, 3, 0, 2]), 0.4, 0.75, 0.75, np.linspace(0, 1, 7), 0.05)
    data = canon.Diversity("C4", poses, poses, 0.0, 0.1, canon.Curve((5, 10, 20), (0.5, 0.7, 0.8), 0.85))
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    one = PosedExample("<b>x</b>", image, image, (image,) * 4, np.array([0.1, 0.2, 0.3, np.inf]), 0, 0.1, "turned")
    found = PoseAudit(
        answers, "a model", canon.Latency(timings, 3, "cpu"), data, (canon.Caution("slow", "it is <slow>."),),
        canon.element_names(C4), (one,), (one,), (one,), provenance={"command": "none"},
    )  # fmt: skip
    return found._replace(**others)


def test_the_page_shows_all_and_escapes_names(tmp_path: Path):
    page = write_canonicalization(audit(), tmp_path)
    text = page.read_text()
    for chapter in ("warnings", "answers", "orbits", "failures", "chosen", "time", "data", "made"):
        assert f'id="{chapter}"' in text
    assert "<b>x</b>" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "it is &lt;slow&gt;." in text
    assert "not looked at" in text
    assert "<script" not in text
    assert len(list((tmp_path / "figures").glob("*.png"))) == 6
    rows = (tmp_path / "elements.csv").read_text().splitlines()
    assert len(rows) == 5
    document = json.loads((tmp_path / "canonicalization.json").read_text())
    assert document["schema"] == "repsim.canonicalization/1"
    assert document["latency"][0]["flops"] is None
    assert document["latency_ratio"] == {"1": pytest.approx(2.0)}
    assert document["diversity"]["curve"]["per_doubling"] == pytest.approx(0.05)


def test_what_was_not_looked_at_is_left_out(tmp_path: Path):
    bare = audit(latency=None, diversity=None, failures=(), chosen=(), cautions=())
    ways = tuple(way._replace(agrees=None, right=None) for way in bare.equivariance.ways)
    bare = bare._replace(equivariance=bare.equivariance._replace(ways=ways))
    text = write_canonicalization(bare, tmp_path).read_text()
    assert 'id="time"' not in text
    assert 'id="data"' not in text
    assert "Nothing to warn of." in text
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2
    assert canonicalization_to_json(bare)["upright_drop"] is None


def test_a_terminal_gets_ways_times_and_warnings():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(canonicalization_summary(audit()))
    told = console.export_text()
    assert "2.00 times as long as the model at batch 1" in told
    assert "Warning, slow: it is <slow>." in told
    assert "model alone" in told
