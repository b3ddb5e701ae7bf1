"""Bad inputs tried on every measure, and how many were silently wrong: python benchmarks/bad_inputs.py.

A case is right if the measure raises where an error is due, and otherwise gives the value of a textbook implementation
in float64 (within 0.01). The cases, the first eighteen of which come from a study of ten public tools, stand in
tests/bad_inputs.py, the textbook implementations in tests/oracles.py.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from _record import record
from bad_inputs import CASES
from judging import judge

from repsim_jax import similarity


def main() -> None:
    """Judges, prints and records."""
    rows = {}
    for name in similarity.measures():
        verdicts = {case.name: judge(name, case) for case in CASES}
        wrong = {case: verdict.found for case, verdict in verdicts.items() if not verdict.right}
        first = [case.name for case in CASES[:18]]
        rows[name] = {
            "right_of_first_18": sum(verdicts[case].right for case in first),
            "right": sum(verdict.right for verdict in verdicts.values()),
            "silently_wrong": wrong,
        }
        print(f"{name:>22}: {rows[name]['right_of_first_18']} of 18, {rows[name]['right']} of {len(CASES)}", flush=True)
    wrong = sum(len(row["silently_wrong"]) for row in rows.values())
    tried = len(CASES) * len(rows)
    print(f"bad inputs tried: {tried} ({len(CASES)} cases x {len(rows)} measures), silently wrong: {wrong}")
    cases = {case.name: "must raise" if case.raises else "must equal float64" for case in CASES}
    result = {"tried": tried, "silently_wrong": wrong, "tolerance": 0.01, "cases": cases, "measures": rows}
    print(json.dumps(record("bad_inputs", result, seeds=[7], packages=["scipy"]).name))


if __name__ == "__main__":
    main()
