"""Draws the contests of `repsim contrasim benchmark` as one picture: python benchmarks/contrasim_picture.py.

Reads benchmarks/results/contrasim_*.json, writes docs/pictures/contrasim-contests.png. Each dot is the share of right
decisions with its 95 % interval: ours and the paper's on models that they were fitted on and on others, the untrained
cosine of relative representations, and the best closed-form measure of each contest.
"""

import json
from pathlib import Path
from typing import Any

from _record import RESULTS, ROOT

# Contest, negatives and n: the hard form of each, at the size of the paper or the largest.
_SHOWN = (
    ("layers of digits networks", "", 8),
    ("layers of digits networks", "", None),
    ("layers of CIFAR-10 networks (lossy JPEG)", "", None),
    ("layers of language models", "", None),
    ("translations under multilingual-e5-small", "hard", 8),
    ("image and caption", "hard", 8),
)
_LEARNED = {
    "ContraSim, ours": ("ours", "#0b6e4f"),
    "ContraSim, as in the paper": ("paper's", "#b3541e"),
}


def standings() -> list[dict[str, Any]]:
    """All lines of all contests.

    Returns:
        A dictionary each, as ``Standing.to_json`` gives them.
    """
    files = sorted(RESULTS.glob("contrasim_*.json"))
    return [line for file in files for line in json.loads(file.read_text(encoding="utf-8")).get("standings", ())]


def chosen(lines: list[dict[str, Any]], contest: str, negatives: str, size: int | None) -> list[tuple[str, str, Any]]:
    """What is drawn of one contest: label, color and line, best last.

    Args:
        lines: From ``standings``.
        contest: Which contest.
        negatives: Which alternatives.
        size: Examples n; the largest where None.

    Returns:
        One entry for each dot.
    """
    here = [one for one in lines if one["contest"] == contest and one["negatives"] == negatives]
    size = max((one["size"] for one in here), default=0) if size is None else size
    here = [one for one in here if one["size"] == size]
    if not here:
        return []
    closed = max((one for one in here if one["family"] == "closed form"), key=lambda one: one["mean"])
    anchors = max((one for one in here if one["family"] == "anchors only"), key=lambda one: one["mean"])
    made = [
        (f"best closed form: {closed['contestant']}", "#5b5f97", closed),
        (anchors["contestant"], "#8d99ae", anchors),
    ]
    for one in here:
        if one["contestant"] in _LEARNED:
            name, color = _LEARNED[one["contestant"]]
            made.append((f"ContraSim, {name}; fitted on {one['trained_on']}", color, one))
    return sorted(made, key=lambda entry: entry[2]["mean"])


def main() -> None:
    """Draws and writes the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = standings()
    panels = [(shown, entries) for shown in _SHOWN if (entries := chosen(lines, *shown))]
    heights = [len(entries) for _, entries in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(8.2, 1.1 + 0.34 * sum(heights) + 0.75 * len(panels)), squeeze=False,
        gridspec_kw={"height_ratios": heights}, sharex=True,
    )  # fmt: skip
    for axis, ((contest, negatives, _), entries) in zip(axes[:, 0], panels, strict=True):
        for place, (_, color, one) in enumerate(entries):
            axis.plot([one["low"], one["high"]], [place, place], color=color, lw=2.2)
            axis.plot(one["mean"], place, "o", color=color, ms=6)
        axis.axvline(entries[0][2]["chance"], color="#9a9a9a", ls=":", lw=1)
        axis.set_yticks(range(len(entries)), [label for label, _, _ in entries], fontsize=8)
        axis.set_ylim(-0.6, len(entries) - 0.4)
        told = f", {negatives} alternatives" if negatives else ""
        axis.set_title(f"{contest}{told}, n = {entries[0][2]['size']}", loc="left", fontsize=9, fontweight="bold")
        axis.grid(axis="x", color="#e5e5e5", lw=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlim(0, 1.02)
    axes[-1, 0].set_xlabel("share right (higher is better), 95 % interval; dotted: chance", fontsize=9)
    figure.tight_layout()
    path = Path(ROOT) / "docs" / "pictures" / "contrasim-contests.png"
    figure.savefig(path, dpi=160)
    print(path.name)


if __name__ == "__main__":
    main()
