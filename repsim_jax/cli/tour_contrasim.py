"""The tour's last chapter: a measure that is fitted on some networks of digits, and tested on others."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repsim_jax.cli.bars import bar

if TYPE_CHECKING:
    from repsim_jax.activations import Store
    from repsim_jax.similarity import Comparison
    from repsim_jax.similarity.contrasim import Fit

_NUM_FITTED, _NUM_UNSEEN = 4, 2
# Enough for the contrast to show; the published numbers are of longer fits (benchmarks/README.md).
_NETWORK_STEPS, _FIT_STEPS, _ANCHORS, _HIDDEN = 200, 100, 64, (256,)
_BESIDE = ("procrustes", "linear_cka_unbiased")


class Chapter(NamedTuple):
    """Where to read on.

    Attributes:
        fit: Page of the fit.
        comparison: Page of two networks that the measure has not seen.
    """

    fit: Path
    comparison: Path


def chapter(console: Any, out: Path, *, seed: int) -> Chapter:
    """Trains six networks, fits on four, and tests which layer belongs to which on the other two; prints a table."""
    from repsim_jax import report, similarity
    from repsim_jax.similarity import contrasim

    console.print(
        "\nA measure can be learned: fitted on four networks that differ in their seed, to find the same layer in two\n"
        "others. Shares of layers whose nearest layer in the other network is the same one, on new images:",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    stores = _networks(out / "contrasim", seed)
    fitted, unseen = list(stores)[:_NUM_FITTED], list(stores)[_NUM_FITTED:]
    ours = _fit(seed, {name: stores[name] for name in fitted}, faithful=False)
    paper = _fit(seed, {name: stores[name] for name in fitted}, faithful=True)

    def compared(a: str, b: str, fit: "Fit", *others: str) -> "Comparison":
        learned = contrasim.Learned(fit.measure, allow_unfitted=True, on_seen="drop")
        return similarity.compare(stores[a], stores[b], measures=(learned, *others), name_a=a, name_b=b)

    groups = _groups(fitted, unseen)
    rows = {
        "ContraSim, relative input": _shares(groups, lambda a, b: compared(a, b, ours), "contrasim"),
        "ContraSim, as in its paper": _shares(groups, lambda a, b: compared(a, b, paper), "contrasim"),
    }
    beside = {pair: compared(*pair, ours, *_BESIDE) for pairs in groups.values() for pair in pairs}
    for name in _BESIDE:
        rows[similarity.measure(name).title] = _shares(groups, lambda a, b: beside[a, b], name)
    console.print(_table(list(groups), rows, next(iter(beside.values()))))
    contrasim.save(ours.measure, out / "digits.measure")
    told = {"command": "repsim tour"}
    page = report.write_fit(ours, out / "digits.measure", provenance=told)
    return Chapter(page, report.write(beside[unseen[0], unseen[1]], out / "unseen-networks", provenance=told))


def _networks(out: Path, seed: int) -> "dict[str, Store]":
    from dataclasses import replace

    from repsim_jax.evaluation.populations import image_networks
    from repsim_jax.evaluation.populations.images import DIGITS

    count = _NUM_FITTED + _NUM_UNSEEN
    with bar("training networks") as on_progress:
        return image_networks(
            out,
            data="digits",
            num_models=count,
            seed=100 * seed,
            recipe=replace(DIGITS, num_steps=_NETWORK_STEPS),
            on_progress=lambda _, done, total: on_progress(done, total),
        )


def _fit(seed: int, stores: "dict[str, Store]", *, faithful: bool) -> "Fit":
    from dataclasses import replace

    import jax

    from repsim_jax.similarity import contrasim

    options = contrasim.FAITHFUL if faithful else contrasim.Options(num_anchors=_ANCHORS, hidden=_HIDDEN)
    training = contrasim.FAITHFUL_LAYERS if faithful else contrasim.Training()
    # The same steps for both: the paper's learning rate would need many more of them.
    training = replace(training, num_steps=_FIT_STEPS, batch_size=128, learning_rate=1e-3)
    with bar("fitting ContraSim") as on_progress:
        return contrasim.fit(
            jax.random.key(seed), stores, options=options, training=training, held_out=(), sensitivity=False,
            on_progress=on_progress,
        )  # fmt: skip


def _groups(fitted: Sequence[str], unseen: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    return {
        "both fitted": list(itertools.combinations(fitted, 2)),
        "one unseen": list(itertools.product(fitted, unseen)),
        "both unseen": list(itertools.combinations(unseen, 2)),
    }


def _shares(
    groups: dict[str, list[tuple[str, str]]], compared: "Callable[[str, str], Comparison]", measure: str
) -> list[tuple[int, int]]:
    """Right decisions and all of them, in both directions, for each group of pairs."""
    counts = []
    for pairs in groups.values():
        matrices = [compared(a, b).matrix(measure) for a, b in pairs]
        both = [matrix for one in matrices for matrix in (one, one.T)]
        counts.append((sum(int((one.argmax(1) == np.arange(len(one))).sum()) for one in both), sum(map(len, both))))
    return counts


def _table(groups: list[str], rows: dict[str, list[tuple[int, int]]], one: "Comparison") -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("measure", no_wrap=True)
    for name in groups:
        table.add_column(name, justify="right")
    for name, counts in rows.items():
        table.add_row(name, *(f"{right / total:.0%} of {total}" for right, total in counts))
    table.caption = f"Higher = better; chance {1 / len(one.layers_a):.0%}; n = {one.num_examples} images for all."
    return table
