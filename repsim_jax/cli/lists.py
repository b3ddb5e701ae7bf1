"""``repsim measures`` and ``repsim models``: what can be named on the command line."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from repsim_jax.pretrained.weights import PackagedFile


def measures(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the measures, with their direction and range.

    \b
    repsim measures
    repsim compare old.npz new.npz --measures linear_cka_unbiased,rsa
    """
    from repsim_jax import similarity
    from repsim_jax.report.tables import number

    known = similarity.measures()
    lines = [
        (
            name,
            "higher = more alike" if one.larger_is_more_similar else "lower = more alike",
            f"{number(one.range[0], 0)} to {number(one.range[1], 0)}",
            str(one.title),
        )
        for name, one in known.items()
    ]
    _show(("measure", "direction", "range", "what it is"), lines, as_json)


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the built-in pretrained models, and which are installed.

    \b
    repsim models
    repsim layers clip-vit-b16 --data photos/
    """
    from repsim_jax import pretrained

    lines, to_install = [], []
    for name, card in pretrained.cards().items():
        missing = [file.install for file in card.files if not _is_installed(file)]
        lines.append((name, card.modality, card.license, "no" if missing else "yes", card.title))
        to_install += missing if missing else []
    _show(("model", "input", "license", "installed", "what it is"), lines, as_json)
    if to_install and not as_json:
        print("Install what is missing with:", *dict.fromkeys(to_install), sep="\n  ")


def _is_installed(file: "PackagedFile") -> bool:
    from repsim_jax.errors import RepsimError
    from repsim_jax.pretrained.weights import locate

    try:
        locate(file)
    except RepsimError:
        return False
    return True


def _show(columns: tuple[str, ...], lines: list[tuple[str, ...]], as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps([dict(zip(columns, line, strict=True)) for line in lines], indent=1))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from repsim_jax.report.text import styled

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, no_wrap=k == 0)
    for line in lines:
        table.add_row(*map(styled, line))
    Console(highlight=False).print(table)
