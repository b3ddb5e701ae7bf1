"""``repsim canonicalize``: brings images into their canonical pose, so that a model answers alike for all poses."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make a model equivariant without touching it: learn which pose of an image is upright, without labels, and "
    "let the model see only that one. FOLDER holds what was learned; each command adds to it. "
    "For example: repsim canonicalize fit digits --out FOLDER; repsim canonicalize report FOLDER; "
    "repsim canonicalize apply FOLDER photographs/ --out upright",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="From `repsim canonicalize fit`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a document instead of a summary.")]


def _add_commands() -> None:
    from repsim_jax.cli import canonicalize_apply, canonicalize_fit, canonicalize_report

    app.command("fit")(canonicalize_fit.fit)
    app.command("apply")(canonicalize_apply.apply)
    app.command("report")(canonicalize_report.report)


_add_commands()
