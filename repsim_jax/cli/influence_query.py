"""``repsim influence query``: which training examples helped each query, and which harmed it."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.extract import Column, IdColumn
from repsim_jax.cli.influence import AsJson, Moved, RunFolder
from repsim_jax.cli.influence_score import SHARDS, Block, Mode, curvature_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from repsim_jax.cli.examples import Examples
    from repsim_jax.cli.influence_runs import Run
    from repsim_jax.influence import Measurement
    from repsim_jax.report.audits import Ranked

QUERIES_FILE, FEATURES = "queries.json", "features"
_SEARCHES = ("auto", "pairs", "exact", "inverted")
# Examples above which all pairs take longer than storing features once.
_MANY = 20_000
MEASURED = {
    "stability": "stability of the query's views (lower is better)",
    "loss": "the training objective of all queries as one batch (lower is better)",
    "uniformity": "unevenness of all queries on the sphere (lower is better)",
    "distance": "cosine distance between the queries of a pair (lower: closer)",
}


def query(
    run: RunFolder,
    queries: Annotated[
        str | None, typer.Argument(help="Other examples to ask for, of the same kind as the data.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Training examples to ask for instead: their ids, with commas.")
    ] = None,
    column: Column = None,
    id_column: IdColumn = None,
    limit: Annotated[int, typer.Option(min=1, help="Only the first so many queries.")] = 32,
    measurement: Annotated[str, typer.Option(help=f"{', '.join(MEASURED)}.")] = "stability",
    top: Annotated[int, typer.Option(min=1, help="Helpful and harmful examples that are kept of each query.")] = 10,
    mode: Mode = "batch",
    block: Block = 32,
    search: Annotated[
        str,
        typer.Option(
            help="auto, pairs (all of them), exact (features of logra or projection, stored in RUN/features and "
            f"searched on disk) or inverted (faiss, approximate). auto is exact above {_MANY:,} examples."
        ),
    ] = "auto",
    data: Moved = None,
    as_json: AsJson = False,
) -> None:
    """Which training examples helped each query most, and which harmed it?

    Queries are other examples, or training examples by their ids; without either, those of the highest self-influence
    are taken. Large sets are searched by features that are stored once, whatever is asked for later. Writes
    RUN/queries.csv (and .parquet).

    \b
    repsim influence query digits.run --rows digit_0003,digit_0017
    repsim influence query photographs.run other-photographs/ --top 20
    repsim influence query digits.run --rows digit_0003,digit_0017 --measurement distance
    repsim influence query million.run other-photographs/ --search exact
    """
    from rich.console import Console

    from repsim_jax.cli.influence_runs import opened_run
    from repsim_jax.errors import UnknownNameError
    from repsim_jax.report.audits import query_columns
    from repsim_jax.report.columns import write_columns

    if measurement not in MEASURED:
        raise UnknownNameError.of("measurement", measurement, MEASURED)
    if search not in _SEARCHES:
        raise UnknownNameError.of("search", search, _SEARCHES)
    opened = opened_run(run, data)
    asked = _asked(opened, queries, rows, column=column, id_column=id_column, limit=limit)
    way = _way(opened, search, measurement)
    if way == "pairs":
        answers = _ranked(opened, asked, measurement, top=top, mode=mode, block=block)
    else:
        answers = searched(opened, asked, way, top=top, mode=mode, block=block)
    told = MEASURED[measurement] + ("" if mode == "batch" else f"; mode {mode}")
    _write_queries(opened, asked, answers, told, from_data=queries is None, source=(queries, column, id_column))
    table = query_columns(opened.examples.ids, answers)
    write_columns(run, "queries", table)
    if as_json:
        typer.echo(json.dumps({name: values.tolist() for name, values in table.items()}))
        return
    console = Console(highlight=False)
    for one in answers:
        console.print(_told(one, opened.examples.ids))
    console.print(f"{run / 'queries.csv'}; for pictures: repsim influence report {run}", soft_wrap=True)


def _asked(
    run: "Run", queries: str | None, rows: str | None, *, column: str | None, id_column: str | None, limit: int
) -> "Examples":
    """The queries, as the model takes them."""
    import numpy as np

    from repsim_jax.cli.examples import read_examples
    from repsim_jax.cli.influence_runs import preparation
    from repsim_jax.cli.messages import say
    from repsim_jax.errors import BadArrayError, RepsimError

    examples = run.examples
    if queries is not None:
        if rows is not None:
            raise RepsimError("queries are other examples or --rows of the training examples, not both. Leave one out.")
        prepare = preparation(run.options)
        size = None if prepare is not None else run.options["size"]
        found = read_examples(queries, column=column, id_column=id_column, limit=limit, size=size, prepare=prepare)
        for one, reason in found.skipped.items():
            say(f"left out {one}: {reason}")
        if found.x.shape[1:] != examples.x.shape[1:]:
            raise BadArrayError(
                f"queries have the shape {found.x.shape[1:]}, training examples {examples.x.shape[1:]}. Bring them "
                "to it, or fit with --size."
            )
        return found
    if rows is not None:
        places = {one: row for row, one in enumerate(examples.ids)}
        chosen = np.asarray([places[one] for one in _named(rows, places)])
    else:
        from repsim_jax.cli.influence_audits import scores

        chosen = np.argsort(-scores(run)["self_influence"], kind="stable")[: min(limit, 12)]
    ids = tuple(examples.ids[row] for row in chosen)
    return examples._replace(
        ids=ids, x=examples.x[chosen], picture=lambda k: examples.picture(int(chosen[k])), skipped={}
    )


def _named(rows: str, known: "Mapping[str, int]") -> list[str]:
    """Ids between commas; an id may hold commas itself, and the longest that is known is taken."""
    from repsim_jax.errors import UnknownNameError

    parts, found = rows.split(","), []
    while parts:
        ends = (end for end in range(len(parts), 0, -1) if ",".join(parts[:end]).strip() in known)
        end = next(ends, None)
        if end is None:
            raise UnknownNameError.of("training example", parts[0].strip(), known)
        found.append(",".join(parts[:end]).strip())
        parts = parts[end:]
    return found


def _way(run: "Run", search: str, measurement: str) -> str:
    """How influence is found; refuses a search that this run has no features for."""
    from repsim_jax.errors import RepsimError

    kind, n = run.options["curvature"], len(run.examples.ids)
    has_features = kind in ("logra", "projection") and measurement == "stability"
    if search == "auto":
        return "exact" if has_features and n > _MANY else "pairs"
    if search != "pairs" and not has_features:
        raise RepsimError(
            f"--search {search} needs a run whose curvature is logra or projection, and --measurement stability: this "
            f"run has {kind}, and {measurement} was asked for. Give --search pairs, or fit with --curvature logra."
        )
    return search


def queries_of(run: "Run", asked: "Examples") -> Any:
    """The queries with their views, which hang on their ids alone."""
    from repsim_jax import influence
    from repsim_jax.cli.seeds import key_of

    options = run.options
    return influence.augmented(
        key_of(options["seed"], "views"), asked.x, run.augment, num_views=options["num_views"], ids=asked.numbers()
    )


def searched(
    run: "Run", asked: "Examples", way: str, *, top: int, mode: str, block: int
) -> "tuple[Ranked, ...]":  # fmt: skip
    """The first and the last of all training examples, by features of them that are stored once."""
    import hashlib

    from repsim_jax.cli.bars import bar
    from repsim_jax.influence.search import Inverted, measured_features, store_features, top_influence
    from repsim_jax.report.audits import Ranked

    curvature: Any = run.curvature()
    given: Any = {"curvature": curvature, "mode": mode}
    told = json.dumps({**run.fingerprints, "mode": mode, "curvature": curvature_digest(run)}, sort_keys=True)
    folder = run.folder / FEATURES / hashlib.sha256(told.encode()).hexdigest()[:16]
    with bar("features of the training examples") as on_progress:
        store = store_features(run.key("batches"), run.posed, folder, **given, on_progress=on_progress)
    index = Inverted.of(store) if way == "inverted" else store
    found = measured_features(
        run.posed, queries_of(run, asked), curvature=curvature, damping=run.damping(), block=block
    )
    first = top_influence(index, found.features, k=min(top, len(store)))
    answers = []
    for k, name in enumerate(asked.ids):
        # what lowers the instability of a query helped it; an approximate search may find fewer than were asked for
        ends = [
            (side.ids[k][side.ids[k] >= 0], side.values[k][side.ids[k] >= 0])
            for side in (first.lowering, first.raising)
        ]
        answers.append(Ranked(name, k, *ends[0], *ends[1], float(found.measurements[k])))
    return tuple(answers)


def _ranked(
    run: "Run", asked: "Examples", measurement: str, *, top: int, mode: str, block: int
) -> "tuple[Ranked, ...]":
    import numpy as np

    from repsim_jax import influence
    from repsim_jax.cli.bars import bar
    from repsim_jax.influence import Shards
    from repsim_jax.influence.representing import representations
    from repsim_jax.report.audits import ranked

    queries = queries_of(run, asked)
    stamp = {
        **run.fingerprints, "queries": asked.fingerprint(), "measurement": measurement, "mode": mode,
        "damping": run.options["damping"], "curvature": curvature_digest(run),
    }  # fmt: skip
    options: dict[str, Any] = {
        "curvature": run.curvature(), "mode": mode, "damping": run.damping(), "block": block,
        "measurement": _measurement(run, measurement),
    }  # fmt: skip
    with Shards(run.folder / SHARDS, stamp) as kept, bar("influence") as told:
        found = influence.influence(run.key("batches"), run.posed, queries, **options, kept=kept, on_progress=told)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (
        representations(run.posed, asked.x), run.embeddings())]  # fmt: skip
    alone = len(found.values) == len(asked.ids)
    cosines = unit[0] @ unit[1].T if alone else None
    names = asked.ids if alone else _names(asked.ids, len(found.values))
    return tuple(
        ranked(
            names[k], k, found.values[k], float(found.measurements[k]), None if cosines is None else cosines[k], top=top
        )
        for k in range(len(found.values))
    )


def _names(ids: tuple[str, ...], count: int) -> tuple[str, ...]:
    size = len(ids) // count
    return tuple(" and ".join(ids[k * size : (k + 1) * size][:3]) for k in range(count))


def _measurement(run: "Run", name: str) -> "Measurement | None":
    from repsim_jax import influence

    if name == "loss":
        return influence.TrainingLoss(run.posed.objective)
    return {"stability": None, "uniformity": influence.Uniformity(), "distance": influence.Distance()}[name]


def _write_queries(
    run: "Run", asked: "Examples", ranked: "tuple[Ranked, ...]", measurement: str, *, from_data: bool, source: Any
) -> None:
    """What the report needs of the queries."""
    from repsim_jax.cli.examples import content_of
    from repsim_jax.durable import replace_file

    told = {
        "measurement": measurement, "from_data": from_data, "ids": list(asked.ids),
        "source": [None if source[0] is None else content_of(source[0]), *source[1:]],
        "model": run.fingerprints["model"],
        "queries": [
            {name: value.tolist() if hasattr(value, "tolist") else value for name, value in one._asdict().items()}
            for one in ranked
        ],
    }  # fmt: skip
    replace_file(run.folder / QUERIES_FILE, (json.dumps(told) + "\n").encode())


def _told(one: "Ranked", ids: tuple[str, ...]) -> Any:
    from rich.console import Group

    from repsim_jax.report.text import shorten, styled

    def side(name: str, rows: Any, values: Any) -> Any:
        told = ", ".join(
            f"{shorten(ids[row], 28)} ({value:+.1e})" for row, value in zip(rows[:5], values[:5], strict=True)
        )
        return styled(f"  {name}: {told}")

    return Group(
        styled(f"{one.query_id}: {one.measurement:.4g}", "bold"),
        side("helpful", one.helpful, one.helpful_values),
        side("harmful", one.harmful, one.harmful_values),
    )
