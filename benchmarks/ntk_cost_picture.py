"""Draws how the cost of the NTK grows: python benchmarks/ntk_cost_picture.py.

Reads benchmarks/results/ntk_costs.json, writes docs/pictures/ntk-cost.png: processor seconds as the number of examples,
the width, the outputs and the depth grow, one at a time, for ours, the bare matrix products, and neural-tangents'
fastest implementation.
"""

import json
from typing import Any

from _record import RESULTS, ROOT

_LINES = (
    ("ours", "repsim_jax", "#0b6e4f", "-"),
    ("structured_derivatives", "neural-tangents, structured derivatives", "#b3541e", "-"),
    ("limit", "matrix products alone", "#8d99ae", "--"),
)
_LABELS = {
    "examples": "examples n (two layers, width 2,048)",
    "width": "width (two layers, n = 512)",
    "outputs": "outputs (two layers, n = 512, width 2,048)",
    "depth": "hidden layers (n = 128, width 512, 10 outputs)",
}


def draw(costs: dict[str, Any], note: str) -> None:
    """Draws and writes the picture.

    Args:
        costs: From the result.
        note: What the numbers were measured on.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (varied, label) in zip(figure.subplots(2, 2).ravel(), _LABELS.items(), strict=True):
        for name, legend, color, style in _LINES:
            seconds = costs[varied]["processor_seconds_median"].get(name)
            if seconds:
                axes.loglog(costs[varied]["values"], seconds, style, marker="o", ms=3, color=color, label=legend)
        axes.set_xticks(costs[varied]["values"], [f"{value:,}" for value in costs[varied]["values"]])
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel("processor seconds, less is better")
        axes.grid(alpha=0.25)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"Cost of the traced tangent kernel ({note})", fontsize=10)
    figure.savefig(ROOT / "docs" / "pictures" / "ntk-cost.png", dpi=130)


def main() -> None:
    """Reads the result and draws it."""
    document = json.loads((RESULTS / "ntk_costs.json").read_text(encoding="utf-8"))
    result, machine = document["result"], document["machine"]
    note = f"{result['settings']['threads']} thread of {machine['processor']}, load {machine['load_average']}, medians"
    draw(result, note)


if __name__ == "__main__":
    main()
