"""The picture of the phase diagram says what it shows, and its document is JSON."""

import json

import numpy as np

from repsim_jax.report.phase import _median, phase_figure, phase_to_json
from repsim_jax.report.plots import encode
from repsim_jax.theory.phase import PhaseDiagram

CHANGE = np.full((2, 3, 2, 4, 5), 0.01)
CHANGE[0, :, :, 2:] = 0.5
CHANGE[1, 0] = np.nan
REGIMES = np.full((2, 3, 2, 4), "lazy", "<U16")
REGIMES[0, :, :, 2:] = "rich"
REGIMES[1, 0] = "diverged"
REGIMES[1, 1, :, 0] = "within a step"
FOUND = PhaseDiagram(
    losses=("linear, dot", "barlow_twins, cosine"), widths=(64, 256, 1024), rates=(0.25, 1.0), times=(1, 2, 4, 8),
    change=CHANGE, loss=CHANGE, stable_rates=np.ones((2, 3, 5)), regimes=REGIMES,
    exponents=np.full((2, 2, 4, 3), np.nan),
)  # fmt: skip


def test_the_picture_names_data_seeds_rates_losses_and_regimes():
    figure = phase_figure(FOUND, data="16 triplets of <digits>")
    told = encode(figure)[1].decode()
    assert len(figure.axes) == 2 * 2 + 1
    drawn = [text.get_text() for axes in figure.axes for text in (axes.title, *axes.texts, axes.yaxis.label)]
    drawn += [text.get_text() for text in figure.texts]
    for wanted in ("linear, dot", "barlow twins, cosine", "learning rate:\nedge / 4", "learning rate:\nthe edge"):
        assert wanted in drawn
    assert any("16 triplets of <digits>; median of 5 seeds" in text for text in drawn)
    assert "<digits>" not in told
    assert any("diverged" in text.get_text() for text in figure.legends[0].get_texts())


def test_diverged_cells_are_hatched_and_the_border_lies_where_the_regime_changes():
    figure = phase_figure(FOUND, data="digits")
    first, second = figure.axes[0], figure.axes[1]
    assert len(first.patches) == 0
    assert len(second.patches) == 4
    lines = {tuple(map(tuple, line.tolist())) for line in first.collections[0].get_segments()}
    assert lines == {((2, i), (2, i + 1)) for i in range(3)}


def test_the_document_is_json_with_nothing_infinite():
    told = json.loads(json.dumps(phase_to_json(FOUND), allow_nan=False))
    assert told["schema"] == "repsim.theory.phase/1"
    assert told["num_seeds"] == 5
    assert told["change_median"][0][0][0] == [0.01, 0.01, 0.5, 0.5]
    assert told["change_median"][1][0][0] == [None] * 4
    assert told["exponents"][0][0][0] == [None] * 3


def test_a_median_of_seeds_is_infinite_only_where_most_are():
    assert _median(np.array([[1.0, np.nan, 3.0, np.inf], [np.nan, np.inf, np.nan, 1.0]])).tolist() == [3.0, np.inf]
