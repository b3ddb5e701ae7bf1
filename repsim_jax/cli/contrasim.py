"""``repsim contrasim``: fit a learned measure, score with it, and benchmark it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from repsim_jax.cli import compare as comparing
from repsim_jax.cli.contrasim_fit import fit

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def contrasim() -> None:
    """Learn which differences between representations matter, and measure with that (ContraSim).

    A closed-form measure such as CKA ignores what its formula ignores. ContraSim is taught on examples of what should
    be alike (positives), against what should not (negatives): `fit` it on stores of several models, read its
    diagnosis, then `score` others, or use it in `repsim compare --learned FOLDER`, with a gate as well.

    \b
    repsim contrasim fit seed-*.store --out seeds.measure
    repsim contrasim score seeds.measure seed-0.store seed-1.store --seen drop
    repsim compare old.store new.store --learned seeds.measure --gate policy.toml
    """


def score(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A measure from `repsim contrasim fit`.")],
    a: Annotated[str, typer.Argument(metavar="A", help="A store or an array file with ids; or NAME=STORE.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same for the other side; rows are matched by id.")],
    allow_unfitted: comparing.AllowUnfitted = False,
    seen: comparing.Seen = None,
    example_mark: comparing.ExampleMark = None,
    measures: Annotated[str | None, typer.Option(help="Closed-form ones beside it, comma-separated.")] = None,
    layers_a: Annotated[list[str] | None, typer.Option(help="Layer or glob of A, quoted. Repeat for more.")] = None,
    layers_b: Annotated[list[str] | None, typer.Option(help="Layer or glob of B, quoted. Repeat for more.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("repsim-report"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON instead of a summary.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the table to this CSV file.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the report.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other things.")] = False,
) -> None:
    """Score all layers of A against all layers of B by a fitted measure, with closed-form ones on the same rows.

    Refused, unless told otherwise: models that took no part in the fit (--allow-unfitted), since a measure may be right
    on its own models and blind on others; and rows that it was trained on (--seen drop, or --seen keep), since scores
    on them flatter. A model is known by the weights of its store, or else by its name.

    \b
    repsim contrasim score seeds.measure seed-0.store seed-1.store --seen drop
    repsim contrasim score seeds.measure seed-8.store seed-9.store --allow-unfitted --seen drop --json
    repsim contrasim score pairs.measure clip.store minilm.store --example-mark '#' --seen drop
    """
    from repsim_jax.similarity import DEFAULT_MEASURES

    others = ",".join(DEFAULT_MEASURES) if measures is None else measures
    comparing.compare(
        a, b, measures=f"contrasim,{others}", layers_a=layers_a, layers_b=layers_b, learned=folder,
        allow_unfitted=allow_unfitted, seen=seen, example_mark=example_mark, out=out, as_json=as_json, csv=csv,
        title=title, force=force,
    )  # fmt: skip


app.command("fit")(fit)
app.command("score")(score)
if find_spec("repsim_jax.cli.contrasim_benchmark"):
    from repsim_jax.cli.contrasim_benchmark import benchmark  # pyright: ignore[reportMissingImports]

    app.command("benchmark")(benchmark)
