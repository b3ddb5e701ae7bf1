"""``repsim influence fit``: from examples to a trained or given model and its fitted curvature, in a folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.extract import Column, IdColumn, Limit, Size
from repsim_jax.cli.messages import say
from repsim_jax.cli.sizes import parse_bytes

if TYPE_CHECKING:
    from repsim_jax.cli.influence_runs import Run
    from repsim_jax.influence import Curvature, Problem
    from repsim_jax.influence.costs import Memory

# Of the memory that is free now.
_SHARE = 0.8
_BLOCKS = (16, 8, 4, 1)
_RANKS = {"logra": 16, "projection": 512, "low-rank": 64}


def fit(
    data: Annotated[
        str,
        typer.Argument(
            help="The training examples: digits, a folder of images, or a .parquet, .npy, .npz or .safetensors file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one is resumed.")] = Path("influence"),
    model: Annotated[
        str | None,
        typer.Option(
            help="A trained encoder: a built-in name (see `repsim models`), hf:FOLDER or module:factory. It gets "
            "images as its own prepare makes them, or RGB in [-1/2, 1/2]. Without it a small one is trained."
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What it was or is trained for: simclr, byol, barlow-twins, vicreg, simsiam, spectral.")
    ] = "simclr",
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Regular expression: only parameters in whose path it is found (with --model)."),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(help="Augmentation of training: digits, images, or module:factory of augment(key, x). [by data]"),
    ] = None,
    num_views: Annotated[int, typer.Option(min=2, help="Views of each example that influence is averaged over.")] = 4,
    column: Column = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    size: Size = None,
    network: Annotated[
        str | None, typer.Option(help="mlp or convnet, of the network that is trained. [by size]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Updates of its training.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=2, help="Examples that the objective sees together.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Of its training.")] = 1e-3,
    checkpoints: Annotated[
        int, typer.Option(min=1, help="Models that are kept on the way, over which score tells standard errors.")
    ] = 1,
    curvature: Annotated[
        str, typer.Option(help="ekfac, logra (many parameters), projection, woodbury, low-rank, dense or identity.")
    ] = "ekfac",
    of: Annotated[str, typer.Option(help="Curvature of: objective, or alignment of views.")] = "objective",
    damping: Annotated[float, typer.Option(help="Added to the curvature, as a share of its mean eigenvalue.")] = 0.001,
    rank: Annotated[int | None, typer.Option(min=1, help="Of logra [16], projection [512] or low-rank [64].")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Random gradients that the curvature is fitted on.")] = 256,
    memory: Annotated[str | None, typer.Option(help="Refuse what needs more: 500M, 4G. [most of what is free]")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, batches, views and projections.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document instead of a summary.")] = False,
) -> None:
    """Train or take a model, and fit the curvature that influence divides by.

    Nothing needs labels. A file that cannot be read is named, left out and listed in RUN/skipped.csv. How much memory it
    takes is told before the work begins. Stopped in the middle? Give the same command again: training goes on where it
    was, to the same bytes.

    \b
    repsim influence fit digits --out digits.run
    repsim influence fit photographs/ --size 64 --objective vicreg --steps 5000 --out photographs.run
    repsim influence fit photographs.parquet --column jpeg --model efficientnet-lite0 --layers 'head' --curvature logra --out lite.run
    Then: repsim influence score RUN, query RUN, dedup RUN, select RUN, verify RUN, report RUN
    """  # noqa: E501 (a command is one line)
    from repsim_jax.cli.examples import content_of
    from repsim_jax.cli.influence_runs import posed_run, write_run
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.cli.provenance import provenance
    from repsim_jax.influence.costs import CURVATURES
    from repsim_jax.influence.damping import Damping, checked_damping

    check_writable(out)
    _check_names(objective, curvature, CURVATURES, of)
    checked_damping(Damping(damping))
    _check_layers(model, layers)
    allowed = _free() if memory is None else parse_bytes(memory)
    options = {
        "data": content_of(data), "column": column, "id_column": id_column, "limit": limit, "size": size,
        "model": model, "objective": objective, "layers": layers, "views": views, "num_views": num_views,
        "network": network, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate,
        "checkpoints": checkpoints, "curvature": curvature, "of": of, "damping": damping,
        "rank": rank or _RANKS.get(curvature), "samples": samples, "seed": seed,
    }  # fmt: skip
    run = posed_run(out, options, provenance(), before=lambda posed: _check_memory(posed, options, allowed))
    tell_skipped(run)
    write_run(run)
    fit_curvature(run)
    told = {"run": str(out), "examples": len(run.examples.ids), "skipped": run.examples.skipped,
            "parameters": run.posed.num_params(), "options": options, "fingerprints": run.fingerprints}  # fmt: skip
    if as_json:
        typer.echo(json.dumps(told))
        return
    typer.echo(
        f"{out}: {len(run.examples.ids):,} examples, {run.posed.num_params():,} parameters, {objective}, {curvature} "
        f"of the {of}. Next: repsim influence score {out}"
    )


def _check_names(objective: str, curvature: str, curvatures: tuple[str, ...], of: str) -> None:
    """Before minutes of work, not after them."""
    from repsim_jax.errors import UnknownNameError
    from repsim_jax.influence.pretraining import OBJECTIVES

    matrices = ("objective", "alignment", *(("hessian",) if curvature in ("dense", "low-rank") else ()))
    for kind, name, known in (
        ("objective", objective, OBJECTIVES), ("curvature", curvature, curvatures),
        ("matrix", of, matrices),
    ):  # fmt: skip
        if name not in known:
            raise UnknownNameError.of(kind, name, known)


def tell_skipped(run: "Run") -> None:
    """Names what was left out, and lists it in the run's folder."""
    import numpy as np

    from repsim_jax.report.columns import write_columns

    for number, (one, reason) in enumerate(run.examples.skipped.items()):
        if number < 10:
            say(f"left out {one}: {reason}")
    if len(run.examples.skipped) > 10:
        say(f"and {len(run.examples.skipped) - 10} more; skipped.csv has them all")
    if run.examples.skipped:
        names, reasons = zip(*run.examples.skipped.items(), strict=True)
        write_columns(run.folder, "skipped", {"id": np.asarray(names), "reason": np.asarray(reasons)})


def _check_layers(model: str | None, layers: str | None) -> None:
    """A filter that would be ignored, or that is none."""
    import re

    from repsim_jax.errors import RepsimError

    if layers is None:
        return
    if model is None:
        raise RepsimError("--layers chooses among the parameters of a --model, and none was given. Leave it out.")
    try:
        re.compile(layers)
    except re.error as error:
        raise RepsimError(f"--layers {layers!r} is no regular expression: {error}.") from error


def _check_memory(posed: "Problem", options: dict[str, Any], allowed: int) -> None:
    """Refuses what would not fit, with the flag that would."""
    from repsim_jax.errors import RepsimError
    from repsim_jax.influence.costs import memory_of

    kind = options["curvature"]

    def needed(kind: str, block: int = 32) -> "Memory":
        # each has its own rank where it was not chosen for it
        rank = (options["rank"] if kind == options["curvature"] else None) or _RANKS.get(kind, 16)
        of = options["of"] if options["of"] != "hessian" or kind in ("dense", "low-rank") else "objective"
        return memory_of(posed, kind, of=of, rank=rank, num_samples=options["samples"], block=block)

    need = needed(kind)
    say(
        f"{posed.num_params():,} parameters: about {_gib(need.fit)} to fit {kind}, {_gib(need.curvature)} for the "
        f"curvature, {_gib(need.score)} to score 32 examples at once; {_gib(allowed)} may be used"
    )
    if need.most <= allowed:
        return
    if need.fit <= allowed:
        fitting = [one for one in _BLOCKS if needed(kind, one).most <= allowed]
        if fitting:
            say(f"scores will need a smaller block: repsim influence score RUN --block {fitting[0]}")
            return
    others = [one for one in ("logra", "identity") if one != kind and needed(one, _BLOCKS[-1]).most <= allowed]
    fewer = "" if options["model"] is None else "--layers with fewer parameters, or "
    advice = f"--curvature {others[0]}" if others else f"{fewer}a smaller --batch-size"
    raise RepsimError(
        f"{kind} of {posed.num_params():,} parameters needs about {_gib(need.most)}, and {_gib(allowed)} may be used. "
        f"Choose {advice}, or allow more: --memory {need.most / 2**30 + 0.1:.1f}G."
    )


def _free() -> int:
    """Most of the memory that is free now."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        import os

        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return int(_SHARE * free)


def _gib(number: int) -> str:
    return f"{number / 2**30:.2f} GiB"


def fit_curvature(run: "Run") -> None:
    """Fits the run's curvature and keeps it, unless it is there already."""
    from repsim_jax.cli.influence_runs import CURVATURE_FILE
    from repsim_jax.errors import RepsimError
    from repsim_jax.influence import save_curvature

    path = run.folder / CURVATURE_FILE
    if path.is_file():
        try:
            run.curvature()
        except RepsimError as error:
            say(f"the curvature is fitted again: {error}")
        else:
            return
    save_curvature(
        path, fitted(run.key("curvature"), run.posed, run.options), of=run.options["of"], stamp=run.fingerprints
    )


def fitted(key: Any, posed: "Problem", options: dict[str, Any]) -> "Curvature":
    """The curvature of the options."""
    from repsim_jax import influence
    from repsim_jax.cli.bars import bar

    kind, of, samples = options["curvature"], options["of"], options["samples"]
    with bar(f"curvature ({kind})") as told:
        if kind == "identity":
            return influence.Identity()
        if kind == "dense":
            return influence.dense(key, posed, of=of)
        if kind == "low-rank":
            return influence.low_rank(key, posed, rank=min(options["rank"], posed.num_params()), of=of)
        given = {"of": of, "num_samples": samples, "on_progress": told}
        if kind == "logra":
            return influence.logra(key, posed, rank=options["rank"], **given)
        if kind == "projection":
            return influence.random_projection(key, posed, dimension=options["rank"], **given)
        return {"ekfac": influence.ekfac, "woodbury": influence.woodbury}[kind](key, posed, **given)
