"""``repsim contrasim fit``: from the stores of several models to a learned measure, its diagnosis and its page."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from repsim_jax.cli.bars import bar
from repsim_jax.cli.outs import check_writable
from repsim_jax.cli.sides import check_mark, example_of, named

if TYPE_CHECKING:
    from repsim_jax.activations import Layers
    from repsim_jax.similarity.contrasim import Fit, Options, Training

_SUFFIXES = (".store", ".npy", ".npz", ".safetensors", ".parquet")
_SOURCES = "Stores or array files of the same examples, at least two, as PATH or NAME=PATH."


class _Choices(NamedTuple):
    """What was said on the command line about kind and training; None where nothing was said."""

    faithful: bool
    positives: str | None
    input: str | None
    objective: str | None
    similarity: str | None
    anchors: int | None
    metric: str | None
    num_steps: int | None
    batch_size: int | None
    learning_rate: float | None
    temperature: float | None
    negatives: str | None


def fit(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=_SOURCES)],
    out: Annotated[Path, typer.Option(help="Folder of the measure, its diagnosis and its page.")] = Path("measure"),
    positives: Annotated[
        str | None, typer.Option(help="layer (the same layer of different sources) or example (the same row). [layer]")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="relative (carries over to new models), projected or raw. [relative]")
    ] = None,
    faithful: Annotated[bool, typer.Option("--faithful", help="The paper's: raw input and its numbers.")] = False,
    objective: Annotated[
        str | None, typer.Option(help="contrasim, max_margin, deep_dot or deep_cka. [contrasim]")
    ] = None,
    similarity: Annotated[str | None, typer.Option(help="dot or distance. [dot]")] = None,
    negatives: Annotated[str | None, typer.Option(help="random, or hard: near neighbors. [random]")] = None,
    layers: Annotated[list[str] | None, typer.Option(help="Layer or glob, quoted. Repeat for more.")] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", help="'GLOB=CLASS': layers (LAYER or SOURCE:LAYER) that belong together. Repeat."),
    ] = None,
    example_mark: Annotated[
        str | None,
        typer.Option(
            help="Ids up to this mark name the example ('#': 1.jpg#0 and 1.jpg#1 show 1.jpg); for --positives example."
        ),
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="Source to test on only. Repeat. [the last of four or more]")
    ] = None,
    no_held_out: Annotated[bool, typer.Option("--no-held-out", help="Train on all sources.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates. [500]")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Examples per update. [128]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam. [0.001]")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the contrastive loss. [0.2]")] = None,
    anchors: Annotated[int | None, typer.Option(min=2, help="Anchor examples of relative input. [256]")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Of relative input: plain, whitened or both. [both for layers, whitened for examples]"),
    ] = None,
    test_share: Annotated[float, typer.Option(help="Share of examples kept for the diagnosis; 0 for none.")] = 0.2,
    sensitivity: Annotated[bool, typer.Option(help="Fit again without each source, to see what it rests on.")] = True,
    seed: Annotated[int, typer.Option(help="Of the split, weights and batches.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other things.")] = False,
) -> None:
    """Fit a measure on what should be alike, and tell how far it can be believed.

    With --positives layer, layers of the same name in different sources should be alike, and all other pairs should
    not: for networks that differ in their seed, say. With --positives example, the rows of the same example should be
    alike: translations, images and captions, the old and the new model.

    The verdict tells whether it is right on new examples and, where a source was held out, on models that it has not
    seen. Believe no score of a measure that is not.

    \b
    repsim contrasim fit seed-*.store --out seeds.measure
    repsim contrasim fit en=e5.en.store de=e5.de.store --positives example --negatives hard --out en-de.measure
    repsim contrasim fit clip.store minilm.store --positives example --class '*=any' --example-mark '#'
    repsim contrasim fit seed-*.store --faithful --held-out seed-9 --steps 1000 --out faithful.measure
    """
    from rich.console import Console

    from repsim_jax.report import fit_summary, write_fit
    from repsim_jax.report.text import printable
    from repsim_jax.similarity import contrasim

    choices = _Choices(
        faithful, positives, input, objective, similarity, anchors, metric, steps, batch_size, learning_rate,
        temperature, negatives,
    )  # fmt: skip
    options, training = _kind(choices)
    kept = _held_out(held_out, no_held_out)
    _check_out(out, force)
    check_writable(out)
    sides = _sides(sources)
    classes = _classes(sides, layers or [], class_ or [])
    examples = None if example_mark is None else _examples(example_mark, options)
    check_mark(tuple(sides.values()), example_mark)
    with bar("fitting") as on_progress:
        fitted = _fitted(
            sides, options, training, seed=seed, classes=classes, examples=examples, held_out=kept,
            test_share=test_share, sensitivity=sensitivity, on_progress=on_progress,
        )  # fmt: skip
    if example_mark is not None:
        measure = replace(fitted.measure, settings={**fitted.measure.settings, "example_mark": example_mark})
        fitted = fitted._replace(measure=measure)
    contrasim.save(fitted.measure, out)
    page = write_fit(fitted, out, provenance=_provenance(sources))
    console = Console(highlight=False)
    console.print(fit_summary(fitted.measure))
    console.print(f"\nMeasure: {printable(out)}\nPage: {printable(page)}", markup=False, soft_wrap=True)


def _kind(choices: _Choices) -> "tuple[Options, Training]":
    """Options and training; what was said overrides the defaults, ours or the paper's."""
    from repsim_jax.errors import RepsimError
    from repsim_jax.similarity import contrasim

    if choices.faithful and (choices.input or "raw", choices.objective or "contrasim") != ("raw", "contrasim"):
        raise RepsimError(
            "--faithful is the paper's raw input and contrastive loss. Leave --input and --objective out."
        )
    said = choices._asdict()
    shape = {name: said[name] for name in ("positives", "input", "objective", "similarity") if said[name] is not None}
    shape |= {} if choices.anchors is None else {"num_anchors": choices.anchors}
    # What follows from other options is settled anew.
    start = contrasim.FAITHFUL if choices.faithful else contrasim.Options()
    options = replace(start, hidden=None, residual=None, metric=said["metric"], **shape)
    by_layer = options.positives == "layer"
    faithful = contrasim.FAITHFUL_LAYERS if by_layer else contrasim.FAITHFUL_EXAMPLES
    numbers = ("num_steps", "batch_size", "learning_rate", "temperature", "negatives")
    training = replace(
        faithful if choices.faithful else contrasim.Training(),
        **{name: said[name] for name in numbers if said[name] is not None},
    )
    if choices.anchors is not None and options.input != "relative":
        raise RepsimError(f"--anchors is for relative input, and the input is {options.input}. Leave it out.")
    if choices.metric is not None and options.input != "relative":
        raise RepsimError(f"--metric is for relative input, and the input is {options.input}. Leave it out.")
    if training.negatives == "hard" and by_layer:
        raise RepsimError(
            "--negatives hard is for --positives example; among layers every other layer is a negative anyway."
        )
    return options, training


def _examples(mark: str, options: "Options") -> Callable[[str], str]:
    from repsim_jax.errors import RepsimError

    if not mark or options.positives != "example":
        raise RepsimError(
            "--example-mark is the text between an example and the number of its row, such as '#', for "
            "--positives example. Leave it out, or say both."
        )
    return lambda row: example_of(row, mark)


def _held_out(names: list[str] | None, none: bool) -> tuple[str, ...] | None:
    from repsim_jax.errors import RepsimError

    if none and names:
        raise RepsimError("--no-held-out and --held-out contradict each other. Choose one.")
    return () if none else None if not names else tuple(names)


def _check_out(out: Path, force: bool) -> None:
    """Refuses a folder with anything but an earlier fit of ours."""
    from repsim_jax.errors import FileError
    from repsim_jax.report.fits import FIT_DOCUMENT, FIT_PAGE
    from repsim_jax.report.sheets import PICTURES
    from repsim_jax.similarity.contrasim.files import MANIFEST_FILE, MEASURE_FILE, check_replaceable

    if not out.exists():
        return
    if not out.is_dir():
        raise FileError(out, "the measure needs a folder, and this is a file. Choose another --out.")
    check_replaceable(out)
    # By their names alone they could be anybody's: an earlier fit of ours has a manifest that says so.
    earlier = (out / MANIFEST_FILE).is_file()
    ours = {FIT_DOCUMENT, FIT_PAGE, PICTURES, MANIFEST_FILE, MEASURE_FILE} if earlier else set()
    foreign = sorted({one.name for one in out.iterdir() if not one.name.startswith(".repsim-")} - ours)
    if foreign and not force:
        raise FileError(
            out, f"this folder holds other things ({', '.join(foreign[:3])}). Choose another --out, or add --force."
        )


def _sides(specs: list[str]) -> "dict[str, Layers]":
    from repsim_jax.activations.files import load_layers
    from repsim_jax.errors import RepsimError

    sides: dict[str, Layers] = {}
    for spec in specs:
        name, path = named(spec)
        side = load_layers(path)
        name = side.name if name is None else name
        for suffix in _SUFFIXES:
            name = name.removesuffix(suffix) or name
        if name in sides:
            raise RepsimError(f"two sources are called {name!r}. Give each a name of its own: NAME=PATH.")
        sides[name] = side._replace(name=name)
    return sides


def _classes(sides: "dict[str, Layers]", layers: list[str], rules: list[str]) -> dict[tuple[str, str], str] | None:
    """The class of each layer that takes part; None to leave the choice to the fit."""
    from repsim_jax.errors import RepsimError, UnknownNameError

    if not layers and not rules:
        return None
    pairs = [(source, layer) for source, side in sides.items() for layer in side.names]
    listed = [layer for _, layer in pairs]
    for pattern in (*layers, *(rule.rpartition("=")[0] for rule in rules)):
        if not pattern:
            raise RepsimError("--class takes 'GLOB=CLASS', such as --class 'clip:block_*=any'.")
        if not any(_matches(pair, pattern) for pair in pairs):
            raise UnknownNameError.of("layer of these sources", pattern, dict.fromkeys(listed))
    pairs = [pair for pair in pairs if not layers or any(_matches(pair, pattern) for pattern in layers)]
    if not rules:
        counts = [sum(source == name for source, _ in pairs) for name in sides]
        return {pair: "example" if max(counts) == 1 else pair[1] for pair in pairs}
    found = {}
    for pair in pairs:
        named_by = (rule.rpartition("=") for rule in rules)
        chosen = next((name for pattern, _, name in named_by if _matches(pair, pattern)), None)
        found |= {} if chosen is None else {pair: chosen}
    return found


def _matches(pair: tuple[str, str], pattern: str) -> bool:
    from fnmatch import fnmatchcase

    names = (pair[1], f"{pair[0]}:{pair[1]}")
    return pattern in names or any(fnmatchcase(name, pattern) for name in names)


def _fitted(sides: "dict[str, Layers]", options: "Options", training: "Training", *, seed: int, **others: Any) -> "Fit":
    import jax

    from repsim_jax.errors import RepsimError
    from repsim_jax.similarity import contrasim

    try:
        key = jax.random.key(seed)
    except OverflowError as error:
        raise RepsimError(f"--seed must fit into 64 bits, got {seed}.") from error
    return contrasim.fit(key, sides, options=options, training=training, **others)


def _provenance(sources: Iterable[str]) -> dict[str, str]:
    import platform
    import shlex
    import sys
    from datetime import UTC, datetime

    import jax

    import repsim_jax

    return {
        "command": shlex.join(["repsim", *sys.argv[1:]]),
        "sources": ", ".join(sources),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "versions": f"repsim_jax {repsim_jax.__version__}, jax {jax.__version__}, Python {platform.python_version()}",
        "machine": f"{platform.platform()}, {jax.default_backend()}",
    }
