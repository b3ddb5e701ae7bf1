"""Prints what influence_lds.py recorded, averaged over seeds: python benchmarks/influence_lds_table.py."""

import json

import numpy as np
from _record import RESULTS

COLUMNS = ("lds_0.5", "held_out_0.5", "lds_0.9", "held_out_0.9", "leave_one_out", "memorization", "self")


def told(lines: list[dict[str, float]], column: str) -> str:
    """One cell.

    Args:
        lines: Scores of each seed.
        column: Which.

    Returns:
        The mean over seeds, and the least and most of them.
    """
    values = [line[column] for line in lines]
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Prints a table of each objective."""
    for path in sorted(RESULTS.glob("influence_lds_*_*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        result = document["result"]
        seeds = [result[str(seed)] for seed in document["seeds"]]
        ceilings = ", ".join(
            f"{name} {np.mean([seed['noise_ceilings'][name] for seed in seeds]):.2f}"
            for name in seeds[0]["noise_ceilings"]
        )
        print(f"\n**{result['objective']}, {result['settings']['data']}**, seeds {document['seeds']}")
        print(f"Mean over seeds (least to most); noise ceilings: {ceilings}\n")
        print(f"| estimator | {' | '.join(COLUMNS)} |\n| {' | '.join(['---'] * (1 + len(COLUMNS)))} |")
        for label in seeds[0]["table"]:
            lines = [seed["table"][label] for seed in seeds if label in seed["table"]]
            print(f"| {label} | {' | '.join(told(lines, column) for column in COLUMNS)} |")


if __name__ == "__main__":
    main()
