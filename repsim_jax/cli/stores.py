"""``repsim inspect`` and ``repsim layers``: what is in a store, and what could be read from a model?"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from repsim_jax.cli.extract import Column, Data, IdColumn, Limit, Model, Size


def inspect(
    store: Annotated[Path, typer.Argument(help="Folder of a store.", show_default=False)],
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte and compare its checksum.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what a store holds: layers, rows, how they were made; with --verify that nothing is damaged.

    \b
    repsim inspect clip.store --verify
    """
    from repsim_jax.activations import open_store

    found = open_store(store)
    if verify:
        found.verify()
    recorded = found.metadata.get("layers", {})
    lines = [(name, str(found.width(name)), *_made_from(recorded.get(name, {}))) for name in found.layers]
    facts = {
        "rows": len(found),
        "first ids": list(found.ids[:3]),
        "dtype": found.dtype.name,
        "verified": "every byte" if verify else "sizes only (--verify reads every byte)",
        **{key: value for key, value in found.metadata.items() if key not in ("layers", "versions")},
        "versions": found.versions | found.metadata.get("versions", {}),
    }
    if as_json:
        layers = [dict(zip(("layer", "width", "layout", "shape"), line, strict=True)) for line in lines]
        print(json.dumps({**facts, "layers": layers}, indent=1))
        return
    _show(("layer", "width", "layout", "from shape"), lines)
    for key, value in facts.items():
        _line(f"{key}: {value if isinstance(value, str | int) else json.dumps(value)}")


def layers(
    model: Model,
    data: Data,
    column: Column = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    size: Size = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the hidden layers of a model, with their shapes and the layout policies that fit.

    A star marks the layers that `repsim extract` reads when it is told none.

    \b
    repsim layers model.onnx --data photos/ --size 224
    """
    from repsim_jax.activations.layout import suitable
    from repsim_jax.activations.selection import unfit_layers
    from repsim_jax.activations.specs import open_model, prepared
    from repsim_jax.data.sources import open_source

    with redirect_stdout(sys.stderr):  # what a model prints is not what --json promises to a program
        source = open_source(data, column=column, id_column=id_column, limit=limit)
        opened = open_model(model, size=size)
        batch = next(prepared(source, opened.prepare, 2)(0))
        found = opened.tap.layers(batch.inputs)
        unfit = unfit_layers(opened.tap, batch, found)
    default = set(getattr(opened.tap, "default_layers", ())) or found.keys() - unfit.keys()
    lines = [
        (
            "*" if name in default else "",
            name,
            f"({', '.join(['n', *map(str, struct.shape[1:])])})" if name not in unfit else str(struct.shape),
            str(struct.dtype),
            unfit.get(name) or ", ".join(suitable(len(struct.shape))) or "none needed",
        )
        for name, struct in found.items()
    ]
    columns = ("default", "layer", "shape", "dtype", "layout policies")
    if as_json:
        print(json.dumps([dict(zip(columns, line, strict=True)) for line in lines], indent=1))
        return
    _show(("", *columns[1:]), lines)


def _made_from(recorded: dict[str, Any]) -> tuple[str, str]:
    shape = recorded.get("shape")
    return str(recorded.get("layout", "")), f"(n, {', '.join(map(str, shape))})" if shape else ""


def _show(columns: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from repsim_jax.report.text import printable

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for k, column in enumerate(columns):  # names and shapes stay whole; long explanations and very long names may wrap
        longest = max((len(line[k]) for line in lines), default=0)
        may_wrap = k == len(columns) - 1 or longest > console.width // 2
        table.add_column(column, no_wrap=not may_wrap, overflow="fold")
    for line in lines:
        table.add_row(*(Text(printable(cell)) for cell in line))
    console.print(table)


def _line(text: str) -> None:
    from repsim_jax.report.text import printable

    print(printable(text))
