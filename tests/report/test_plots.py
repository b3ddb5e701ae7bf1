"""Pictures: nothing bare, nothing interpreted, nothing left behind in matplotlib."""

import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from comparisons import MEASURES, hostile, made_up

from repsim_jax.report import digest, figures, plots
from repsim_jax.report.panels import Panel, panels

MADE_UP = digest(made_up(4, 5, num_examples=1234))
OPPOSED = replace(made_up(1, 2, ("rsa", "cca")), values=np.array([[[0.1, 0.9]], [[0.9, 0.1]]]))
SVG = "{http://www.w3.org/2000/svg}"


def texts(figure) -> list[str]:
    return [
        text.get_text() for axes in figure.axes for text in axes.findobj(match=lambda one: hasattr(one, "get_text"))
    ]


@pytest.fixture(scope="module")
def drawn():
    return figures(MADE_UP)


def test_every_picture_names_axes_direction_range_and_n(drawn):
    heat = " ".join(texts(drawn["heat_linear_cka_unbiased"]))
    for part in ("clip-vit-b16, layers by depth", "efficientnet-lite0, layers by depth", "higher = more alike"):
        assert part in heat
    assert "n = 1,234" in heat
    assert "possible -1 to 1" in heat
    for figure in drawn.values():
        main, bar = figure.axes
        assert main.get_xlabel()
        assert main.get_ylabel()
        assert bar.get_ylabel()


def test_there_is_a_heat_map_per_measure_and_pictures_of_their_agreement(drawn):
    assert list(drawn) == [
        "heat_linear_cka_unbiased", "heat_rsa", "heat_mutual_knn", "nearest_layers", "agreement", "disagreement"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (made_up(1, 1, ("rsa",)), ["heat_rsa"]),
        (made_up(2, 2, ("rsa",)), ["heat_rsa", "nearest_layers"]),
        (OPPOSED, ["heat_rsa", "heat_cca", "disagreement"]),
        (replace(made_up(2, 2), values=np.ones((3, 2, 2))), ["heat_linear_cka_unbiased", "heat_rsa", "heat_mutual_knn",
                                                            "nearest_layers"]),
    ],
)  # fmt: skip
def test_pictures_without_content_are_left_out(comparison, expected: list[str]):
    assert [panel.stem for panel in panels(digest(comparison))] == expected


def test_long_lists_of_layers_thin_their_labels():
    figure = figures(digest(made_up(60, 45, ("rsa",))))["heat_rsa"]
    assert len(figure.axes[0].get_yticks()) == 20
    assert len(figure.axes[0].get_xticks()) == 15
    assert not figure.axes[0].texts[2:]


def test_few_cells_show_their_numbers_and_many_do_not(drawn):
    few = [text.get_text() for text in drawn["heat_rsa"].axes[0].texts]
    assert sum(text.replace(".", "").isdigit() for text in few) == 20
    many = figures(digest(made_up(12, 12, ("rsa",))))["heat_rsa"].axes[0].texts
    assert len(many) == 2


def test_hostile_names_are_drawn_as_letters_without_a_warning():
    for name, figure in figures(digest(hostile())).items():
        png, svg = plots.encode(figure)
        assert png.startswith(b"\x89PNG"), name
        elements = list(ET.fromstring(svg).iter())
        assert {element.tag.removeprefix(SVG) for element in elements if element.tag.startswith(SVG)} <= {
            "svg", "metadata", "defs", "style", "g", "path", "use", "image", "clipPath", "rect"
        }  # fmt: skip
        assert not [name for element in elements for name in element.attrib if name.startswith("on")]


def test_the_same_comparison_gives_the_same_bytes():
    found = digest(made_up(3, 3, ("rsa",)))
    first, second = (plots.encode(figures(found)["heat_rsa"]) for _ in range(2))
    assert first == second


def test_the_dark_picture_is_the_light_one_in_other_colors(drawn):
    light, dark = (plots.encode(drawn["heat_rsa"])[1], plots.encode(figures(MADE_UP, plots.DARK)["heat_rsa"])[1])
    recolored = plots.recolored(light, plots.LIGHT, plots.DARK)
    assert recolored != light
    # matplotlib names a marker by a hash of its color, so only these names may differ.
    assert re.sub(rb"\bm[0-9a-f]{10}\b", b"", recolored) == re.sub(rb"\bm[0-9a-f]{10}\b", b"", dark)


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30}):
        plots.encode(figures(digest(hostile(("rsa",))))["heat_rsa"])
        assert matplotlib.rcParams["font.size"] == 30
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_values_of_any_size_are_drawn(scale: float, shift: float):
    values = scale * (np.random.default_rng(0).normal(size=(1, 3, 3)) + shift)
    comparison = replace(made_up(3, 3, ("linear_predictivity",)), values=values)
    (panel, *_) = panels(digest(comparison))
    assert isinstance(panel, Panel)
    assert panel.limits[0] < panel.limits[1]
    plots.encode(plots.draw(panel))


def test_a_constant_heat_map_has_a_color_bar_all_the_same():
    (panel, *_) = panels(digest(replace(made_up(2, 2, ("linear_cka",)), values=np.ones((1, 2, 2)))))
    assert panel.limits == (0.9, 1.0)


@pytest.mark.slow
def test_twelve_measures_of_sixty_layers_are_drawn():
    assert len(figures(digest(made_up(60, 60, MEASURES)))) == 15
