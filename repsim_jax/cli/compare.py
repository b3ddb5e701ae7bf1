"""``repsim compare A B``: from two stores, array files or models to a report, and to the exit status of a gate."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.extract import Column, IdColumn, Limit, Size
from repsim_jax.cli.outs import check_table, check_writable
from repsim_jax.cli.sides import Examples, check_mark, first_rows, is_model, named, side_of

if TYPE_CHECKING:
    from repsim_jax.activations import Layers
    from repsim_jax.evaluation import GateResult, Policy
    from repsim_jax.similarity import Comparison
    from repsim_jax.similarity.contrasim import Learned

_SIDE = (
    "A store, an array file, or a model: a built-in name, hf:FOLDER, FILE.onnx or module:factory. NAME=STORE gives a "
    "store or file another name."
)
_STORES = ("a.store", "b.store")
_LEARNED = "contrasim"


AllowUnfitted = Annotated[
    bool, typer.Option("--allow-unfitted", help="Score models that a learned measure was not fitted for, too.")
]
Seen = Annotated[
    str | None, typer.Option(help="Rows that a learned measure was trained on: drop or keep; an error by default.")
]
ExampleMark = Annotated[
    str | None,
    typer.Option(
        help="Ids up to this mark name the example ('#': 1.jpg#0 and 1.jpg#1 show 1.jpg); its first row is compared."
    ),
]


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=_SIDE)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same for the other side; rows are matched by example id.")],
    data: Annotated[str | None, typer.Option(help="Examples for models: as in `repsim extract`.")] = None,
    column: Column = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    measures: Annotated[str | None, typer.Option(help="Comma-separated; see `repsim measures`.")] = None,
    layers_a: Annotated[list[str] | None, typer.Option(help="Layer or glob of A, quoted. Repeat for more.")] = None,
    layers_b: Annotated[list[str] | None, typer.Option(help="Layer or glob of B, quoted. Repeat for more.")] = None,
    layout: Annotated[list[str] | None, typer.Option(help="POLICY or 'GLOB=POLICY', as in `repsim extract`.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples that are computed together.")] = 32,
    size: Size = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out examples that cannot be read.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("repsim-report"),
    learned: Annotated[Path | None, typer.Option(help="A measure from `repsim contrasim fit`, as one more.")] = None,
    allow_unfitted: AllowUnfitted = False,
    seen: Seen = None,
    example_mark: ExampleMark = None,
    gate: Annotated[Path | None, typer.Option(help="Policy (TOML): exit 0 if it holds, 1 if not, 2 on errors.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON instead of a summary.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the table to this CSV file.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the report.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other things.")] = False,
) -> None:
    """Compare all layers of A with all layers of B: a report, a summary, and the verdict of a gate.

    \b
    repsim compare old.npz new.npz
    repsim compare clip-vit-b16 efficientnet-lite0 --data photos.parquet --column image --out clip-vs-lite
    repsim compare old.store new.store --gate policy.toml
    repsim compare old.store new.store --learned seeds.measure --seen drop

    With --gate the exit status is 0 if the policy holds, 1 if it does not, and 2 on any error.
    """
    from repsim_jax import report

    # The cheap doors first: nothing is extracted for a policy, measure or folder that cannot be used.
    policy = _policy(gate)
    fitted = _learned(learned, allow_unfitted, seen)
    names = _measures(measures, policy, fitted)
    _check_out(out, (a, b), force)
    _check_csv(csv, (a, b, gate))
    check_table(csv, learned)
    check_writable(out)
    examples = Examples(data, column, id_column, limit, layout, batch_size, size, skip_bad)
    _check_options((a, b), examples)
    sides = [
        side_of(spec, out / store, globs, examples)
        for spec, store, globs in zip((a, b), _STORES, (layers_a, layers_b), strict=True)
    ]
    check_mark(sides, example_mark, fitted)
    if example_mark is not None:
        sides = [first_rows(side, example_mark) for side in sides]
    alike = sides[0].name == sides[1].name
    if alike and fitted is None:
        sides = [side._replace(name=spec) for side, spec in zip(sides, (a, b), strict=True)]
    comparison = _compared(sides, [fitted if name == _LEARNED and fitted else name for name in names], quiet=as_json)
    if alike:
        # A learned measure knew both versions by their name; the reader tells them apart by what was typed.
        comparison = replace(comparison, name_a=a, name_b=b)
    verdict = _judged(comparison, policy)
    provenance = _provenance((a, b), examples, sides)
    page = report.write(comparison, out, title=title, gate=verdict, provenance=provenance)
    if csv is not None:
        _write_csv(comparison, csv)
    if as_json:
        _print_json(comparison, verdict, provenance, page)
    else:
        _print_summary(comparison, verdict, page)
    if verdict is not None and not verdict.passed:
        raise typer.Exit(1)


def _policy(gate: Path | None) -> "Policy | None":
    if gate is None:
        return None
    from repsim_jax.evaluation import load_policy

    return load_policy(gate)


def _learned(folder: Path | None, allow_unfitted: bool, seen: str | None) -> "Learned | None":
    from repsim_jax.errors import RepsimError

    if folder is None:
        if allow_unfitted or seen is not None:
            raise RepsimError(
                "--allow-unfitted and --seen are about a learned measure. Name one: --learned FOLDER, from "
                "`repsim contrasim fit`."
            )
        return None
    from repsim_jax.similarity import contrasim

    choice: Any = "raise" if seen is None else seen
    return contrasim.Learned(contrasim.load(folder), allow_unfitted=allow_unfitted, on_seen=choice)


def _measures(wanted: str | None, policy: "Policy | None", fitted: "Learned | None") -> tuple[str, ...]:
    """The measures asked for, the learned one, and those that the policy judges."""
    from repsim_jax import similarity
    from repsim_jax.errors import PolicyError, RepsimError

    names = (
        similarity.DEFAULT_MEASURES
        if wanted is None
        else tuple(one.strip() for one in wanted.split(",") if one.strip())
    )
    for name in names:
        similarity.measure(name)
    judged = () if policy is None else tuple(rule.measure for rule in policy.rules)
    if fitted is not None:
        return tuple(dict.fromkeys((*names, _LEARNED, *judged)))
    if policy is not None and _LEARNED in judged:
        raise PolicyError(policy.path, f"it judges {_LEARNED}, a learned measure: say which one by --learned FOLDER.")
    if _LEARNED in names:
        raise RepsimError(
            f"{_LEARNED} is a learned measure: fit one by `repsim contrasim fit`, and name it by --learned FOLDER."
        )
    return tuple(dict.fromkeys((*names, *judged)))


def _check_out(out: Path, inputs: tuple[str, str], force: bool) -> None:
    """Refuses a folder with anything but our own earlier work on the same two sides."""
    import json

    from repsim_jax.errors import FileError
    from repsim_jax.report.changes import EXAMPLES
    from repsim_jax.report.page import DOCUMENT, PAGE, TABLE
    from repsim_jax.report.sheets import PICTURES

    if out.exists() and not out.is_dir():
        raise FileError(out, "the report needs a folder, and this is a file. Choose another --out.")
    if force or not out.exists():
        return
    foreign = sorted(
        {one.name for one in out.iterdir() if not one.name.startswith(".repsim-")}
        - {DOCUMENT, EXAMPLES, PAGE, PICTURES, TABLE, *_STORES}
    )
    if foreign:
        raise FileError(
            out, f"this folder holds other things ({', '.join(foreign[:3])}). Choose another --out, or add --force."
        )
    if not (out / DOCUMENT).exists() and not (out / PAGE).exists():
        return
    try:
        earlier = json.loads((out / DOCUMENT).read_text())["provenance"]
        same = (earlier["first"], earlier["second"]) == inputs
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise FileError(
            out, "this folder holds the report of another comparison. Choose another --out, or add --force."
        )


def _check_csv(csv: Path | None, inputs: tuple[str | Path | None, ...]) -> None:
    """Refuses a table in the place of a folder, or of what is read."""
    from repsim_jax.errors import FileError

    if csv is None:
        return
    if csv.is_dir():
        raise FileError(csv, "the table needs a file, and this is a folder. Choose another --csv.")
    paths = [Path(named(str(one))[1]) for one in inputs if one is not None]
    if any(path.exists() and csv.exists() and csv.samefile(path) for path in paths):
        raise FileError(csv, "the table would replace an input of this comparison. Choose another --csv.")


def _check_options(inputs: tuple[str, str], examples: Examples) -> None:
    """Refuses what would say nothing: a limit or a layout that no model is there to follow."""
    from repsim_jax.errors import RepsimError

    chosen = examples._asdict()
    del chosen["batch_size"]  # has a default, and is harmless
    given = [
        f"--{name.replace('_', '-')}" for name, value in chosen.items() if value is not None and value is not False
    ]
    if given and not any(is_model(spec) for spec in inputs):
        raise RepsimError(
            f"{', '.join(given)}: for models only, and both sides are layers on disk already, compared whole. "
            "Leave this out, or choose examples where the layers are extracted."
        )


def _compared(sides: "list[Layers]", names: "list[str | Learned]", *, quiet: bool) -> "Comparison":
    from rich.console import Console

    from repsim_jax import similarity
    from repsim_jax.report.text import styled

    with Console(stderr=True, quiet=quiet).status("comparing") as status:
        return similarity.compare(
            *sides,
            measures=names,
            on_progress=lambda name, done, total: status.update(styled(f"comparing: {name} ({done + 1} of {total})")),
        )


def _judged(comparison: "Comparison", policy: "Policy | None") -> "GateResult | None":
    if policy is None:
        return None
    from repsim_jax.evaluation import check

    return check(comparison, policy)


def _provenance(inputs: tuple[str, str], examples: Examples, sides: "list[Layers]") -> dict[str, str]:
    import json
    import platform
    import shlex
    import sys
    from datetime import UTC, datetime

    import numpy

    import repsim_jax
    from repsim_jax.activations import Store

    told = {"first": inputs[0], "second": inputs[1], "command": shlex.join(["repsim", *sys.argv[1:]])}
    told |= {"data": examples.data} if examples.data else {}
    for which, side in zip(("first", "second"), sides, strict=True):
        if isinstance(side.layers, Store):
            told |= {
                f"{which}, {key}": value if isinstance(value, str) else json.dumps(value)
                for key, value in side.layers.metadata.items()
            }
    versions = f"repsim_jax {repsim_jax.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}"
    return {
        **told,
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "versions": versions,
        "machine": platform.platform(),
    }


def _write_csv(comparison: "Comparison", path: Path) -> None:
    from repsim_jax.durable import replace_file
    from repsim_jax.report import to_csv

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, to_csv(comparison).encode())


def _print_json(comparison: "Comparison", verdict: "GateResult | None", provenance: dict[str, str], page: Path) -> None:
    import json

    from repsim_jax import report

    document = report.to_json(report.digest(comparison), gate=verdict, provenance=provenance)
    print(json.dumps({**document, "report": str(page)}, indent=1, allow_nan=False))


def _print_summary(comparison: "Comparison", verdict: "GateResult | None", page: Path) -> None:
    from rich.console import Console

    from repsim_jax import report
    from repsim_jax.report.tables import summary
    from repsim_jax.report.text import printable

    console = Console(highlight=False)
    console.print(summary(report.digest(comparison), gate=verdict))
    console.print(f"\nReport: {printable(page)}", markup=False, soft_wrap=True)
