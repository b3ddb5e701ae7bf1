"""The advice on paper: a page, pictures, a document and a summary, with labels and without."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from repsim_jax.report.advice import VERDICTS, advice_pictures, advice_summary, advice_to_json, write_advice
from repsim_jax.theory import Advice, Learner
from repsim_jax.theory.learners import Motion
from repsim_jax.theory.verdicts import Gain


def learner(name: str, kind: str, probe: float, *, labeled: bool) -> Learner:
    values = probe + np.array([-0.01, 0.0, 0.01])
    moved = Motion(np.array([50, 100]), np.array([0.1, 0.2]))
    return Learner(
        name=name,
        kind=kind,
        scores={"probe": values, "nearest": values, "retrieval": values} if labeled else {"retrieval": values},
        seconds=np.array([3.0, 0.25, 0.5]),
        num_components=4,
        reached=np.array([1.0, 1.0, 0.25]) if name == "kernel PCA" else np.ones(3),
        motion=(moved,) * 3 if kind == "network" else (),
    )


def advice(*, labeled: bool = True, network: bool = True, verdict: str = "kernel") -> Advice:
    learners = [learner("PCA", "pca", 0.6, labeled=labeled), learner("kernel PCA", "kernel", 0.8, labeled=labeled)]
    learners += [learner("network, width 8", "network", 0.81, labeled=labeled)] if network else []
    count = len(learners)
    return Advice(
        verdict=verdict,
        reason="A kernel <does> it.",
        metric="probe" if labeled else "retrieval",
        margin=0.02,
        learners=tuple(learners),
        gains=(Gain("kernel PCA", "PCA", 0.2, 0.15, 0.25),),
        alike={"linear_cka_unbiased": np.eye(count) * 0.5 + 0.5},
        num_train=40,
        num_test=20,
        num_features=7,
        settings={
            "num_seeds": 3, "views": "noise", "chance": 0.5, "recipe": {"num_components": 4, "widths": (8,)},
            "left_out": {"network, width 2": "NaN weights."},
        },
    )  # fmt: skip


def test_a_page_its_pictures_and_the_document_are_written(tmp_path: Path):
    page = write_advice(advice(), tmp_path / "out", provenance={"data": "<b>x</b>"})
    text = page.read_text()
    assert VERDICTS["kernel"] in text
    assert "A kernel &lt;does&gt; it." in text
    assert "Left out: NaN weights." in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "+0.200 (+0.150 to +0.250)" in text
    assert {one.stem for one in (tmp_path / "out" / "figures").glob("*.png")} == {
        "score-probe", "score-nearest", "score-retrieval", "alike", "kernel-change"
    }  # fmt: skip
    document = json.loads((tmp_path / "out" / "advice.json").read_text())
    assert document == json.loads(json.dumps(advice_to_json(advice(), provenance={"data": "<b>x</b>"})))
    assert document["schema"] == "repsim.theory.advice/1"
    assert document["learners"][2]["ntk_change"][0] == {"steps": [50, 100], "change": [0.1, 0.2]}


def test_without_labels_and_networks_there_is_less_to_draw():
    stems = [one.panel.stem for one in advice_pictures(advice(labeled=False, network=False))]
    assert stems == ["score-retrieval", "alike"]


@pytest.mark.parametrize("verdict", sorted(VERDICTS))
def test_the_summary_says_the_verdict_the_reason_and_every_learner_in_eighty_columns(verdict: str, tmp_path: Path):
    console = Console(file=io.StringIO(), width=80)
    console.print(advice_summary(advice(verdict=verdict)))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert text.startswith(VERDICTS[verdict])
    # The interval of Nadeau and Bengio: t(2) = 4.303, s = 0.01, 1/3 + 20/40.
    assert "0.800 ± 0.039" in text
    for one in (
        "A kernel <does> it.",
        "network, width 8",
        "0.5",
        "3 random splits into 40 training",
        "early in 1 of 3 splits, at 0.25",
    ):
        assert one in text
    assert "early in 1 of 3 splits" in write_advice(advice(), tmp_path).read_text()
