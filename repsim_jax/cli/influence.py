"""``repsim influence``: which training examples made this representation, without labels."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Which training examples made this representation? Without labels: who is memorized, who helped or harmed a "
    "query, who is a copy, who is rare. RUN is a folder; each command adds to it, and goes on where it was stopped. "
    "For example: repsim influence fit digits --out RUN; repsim influence score RUN; repsim influence report RUN",
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, from `repsim influence fit`.")]
Moved = Annotated[str | None, typer.Option("--data", help="Where the data are now, if they were moved.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a document instead of a summary.")]


def _add_commands() -> None:
    from repsim_jax.cli import influence_curate, influence_fit, influence_query, influence_score, influence_verify

    app.command("fit")(influence_fit.fit)
    app.command("score")(influence_score.score)
    app.command("query")(influence_query.query)
    app.command("dedup")(influence_curate.dedup)
    app.command("select")(influence_curate.select)
    app.command("verify")(influence_verify.verify)
    app.command("report")(influence_verify.report)


_add_commands()
