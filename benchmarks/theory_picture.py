"""When a contrastive network keeps its tangent kernel: python benchmarks/theory_picture.py [results/NAME.json].

Draws docs/pictures/theory-when.png from the claims that `repsim theory verify` has written: two losses of cosines, four
of dot products with a lower bound, two without.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from _record import ROOT

from repsim_jax.report.courses import courses_chart
from repsim_jax.report.plots import encode
from repsim_jax.theory import Course
from repsim_jax.theory.exponents import Slope

LABELS = (
    "linear, cosine; tanh", "infonce, cosine; tanh", "logistic, dot; tanh", "infonce, dot; tanh",
    "spectral, dot; tanh", "barlow_twins, dot; tanh", "linear, dot; tanh", "attraction, dot; tanh",
)  # fmt: skip


def course(told: dict[str, Any]) -> Course:
    """A course from its document.

    Args:
        told: From ``report.courses.course_to_json``.

    Returns:
        The course; what had no number counts as an escape where the course was followed to its end.
    """
    change = np.asarray(told["change"], float)
    lost = np.inf if told["followed_until"] == told["times"][-1] else np.nan
    slopes = tuple(None if one is None else Slope(**one) for one in told["slopes"])
    return Course(
        told["label"], tuple(told["widths"]), np.asarray(told["times"]), np.where(np.isnan(change), lost, change),
        slopes, np.asarray(told["errors"], float), np.nan, np.nan,
    )  # fmt: skip


def main() -> None:
    """Draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", type=Path, nargs="?", default=ROOT / "benchmarks/results/theory_digits.json")
    document = json.loads(parser.parse_args().claims.read_text(encoding="utf-8"))
    found = {one["label"]: one for claim in document["claims"] for one in claim["courses"]}
    chart = courses_chart(
        [course(found[label]) for label in LABELS], stem="theory-when",
        title="When does a contrastive network keep its tangent kernel?", caption="",
    )  # fmt: skip
    (ROOT / "docs/pictures/theory-when.png").write_bytes(encode(chart.figure)[0])


if __name__ == "__main__":
    main()
