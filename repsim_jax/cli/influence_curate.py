"""``repsim influence dedup`` and ``select``: which copies may go, and which examples are worth keeping."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.extract import Column, IdColumn, Limit
from repsim_jax.cli.influence import AsJson, Moved, RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from repsim_jax.influence.curation import Duplicates

DUPLICATES_FILE, LEAKS_FILE, SELECTION_FILE = "duplicates.npz", "leaks.npz", "selection.json"
_BY_SCORE = ("influence", "hard", "easy")
_KEPT = "which copy stays: central, influence (the one of the lowest self-influence), hard, easy or random"


def dedup(
    run: Annotated[
        str, typer.Argument(metavar="RUN|DATA", help="Folder of a run; or data, to compare their looks alone.")
    ],
    keep: Annotated[str, typer.Option(help=f"Of each group, {_KEPT}.")] = "central",
    threshold: Annotated[
        float | None, typer.Option(help="Cosine at which embeddings count as copies. [by a rule that needs no labels]")
    ] = None,
    false_share: Annotated[float, typer.Option(help="Expected share of false pairs, of that rule.")] = 0.05,
    column: Column = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    test: Annotated[
        str | None, typer.Option(help="Test examples: which of them are copies of training examples? Writes leaks.csv.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables. [the run; repsim-dedup for data]")] = None,
    data: Moved = None,
    as_json: AsJson = False,
) -> None:
    """Groups of copies: the same pixels, the same look, or the same to the encoder; and which of them may go.

    Writes duplicates.csv: each member of each group, and whether it may be dropped.

    \b
    repsim influence dedup digits.run --keep influence
    repsim influence dedup photographs/ --out photographs.copies
    """
    import numpy as np

    from repsim_jax.influence.curation import find_duplicates, to_drop
    from repsim_jax.report.columns import write_columns

    folder, ids, images, embeddings, own, key = _compared(
        run, column=column, id_column=id_column, limit=limit, out=out, data=data, keep=keep
    )
    found = find_duplicates(embeddings, images=images, threshold=threshold, false_share=false_share)
    given: dict[str, Any] = {"keep": keep, "self_influence": own, "key": key}
    dropped = np.asarray(to_drop(found, **given), int)
    _write_duplicates(folder, found, dropped, ids)
    if test is not None:
        leaks_into(
            run, test, (ids, images, embeddings), folder, threshold=threshold, false_share=false_share, data=data
        )
    groups = [(number, ids[row], row in dropped) for number, group in enumerate(found.groups) for row in group]
    table = {name: np.asarray([one[k] for one in groups]) for k, name in enumerate(("group", "id", "may_be_dropped"))}
    write_columns(folder, "duplicates", table)
    if as_json:
        told = {"groups": [[ids[row] for row in group] for group in found.groups], "threshold": found.threshold,
                "threshold_by": found.threshold_by, "may_be_dropped": [ids[row] for row in dropped]}  # fmt: skip
        typer.echo(json.dumps(told))
        return
    _tell(found, dropped, ids, folder)


def _compared(
    run: str,
    *,
    column: str | None,
    id_column: str | None,
    limit: int | None,
    out: Path | None,
    data: str | None,
    keep: str,
) -> Any:
    """Folder, ids, images, embeddings, self-influence and a key; of plain data only the first three are there."""
    import jax
    import numpy as np

    from repsim_jax.cli.examples import read_examples
    from repsim_jax.cli.influence_audits import scores
    from repsim_jax.cli.influence_runs import RUN_FILE, opened_run
    from repsim_jax.cli.messages import say
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.errors import BadArrayError, RepsimError

    if out is not None:
        check_writable(out)
    if (Path(run) / RUN_FILE).is_file():
        _check_of_run(column=column, id_column=id_column, limit=limit)
        opened = opened_run(Path(run), data)
        examples, embeddings, key = opened.examples, opened.embeddings(), opened.key("copies")
        # which copy stays may hang on it
        own = scores(opened)["self_influence"] if (Path(run) / "scores.npz").is_file() or keep in _BY_SCORE else None
        folder = out or Path(run)
    else:
        folder = out or Path("repsim-dedup")
        check_writable(folder)
        if keep in _BY_SCORE:
            raise RepsimError(
                f"--keep {keep} needs the scores of a run: give influence fit, then score, then dedup RUN."
            )
        examples = read_examples(run, column=column, id_column=id_column, limit=limit, any_size=True)
        embeddings, own, key = None, None, jax.random.key(0)
        for one, reason in examples.skipped.items():
            say(f"left out {one}: {reason}")
    pictures = [examples.picture(row) for row in range(len(examples.ids))]
    if any(one is None for one in pictures):
        if embeddings is None:
            raise BadArrayError(f"{examples.name} holds no images: fit a run first, whose embeddings are compared.")
        return folder, examples.ids, None, embeddings, own, key
    return folder, examples.ids, [np.asarray(one) for one in pictures], embeddings, own, key


def _check_of_run(**given: Any) -> None:
    """Refuses what says which data to read: a run knows its own."""
    from repsim_jax.errors import RepsimError

    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if named:
        raise RepsimError(f"a run knows its data, and {' and '.join(named)} would be ignored. Leave it out.")


def _write_duplicates(folder: Path, found: "Duplicates", dropped: "np.ndarray", ids: "Sequence[str]") -> None:
    import numpy as np

    from repsim_jax.influence.stored import save_arrays

    folder.mkdir(parents=True, exist_ok=True)
    rows = np.concatenate([np.zeros(0, int), *found.groups]).astype(int)
    arrays = {
        "rows": rows, "sizes": np.asarray([len(group) for group in found.groups], int), "pairs": found.pairs,
        "similarities": found.similarities, "kinds": np.asarray(found.kinds).astype("U"), "p_values": found.p_values,
        "undefined": found.undefined, "dropped": dropped,
    }  # fmt: skip
    about = {"threshold": float(found.threshold), "threshold_by": found.threshold_by, "notes": list(found.notes),
             "ids": _digest(ids)}  # fmt: skip
    save_arrays(folder / DUPLICATES_FILE, arrays, about)


def _digest(ids: "Sequence[str]") -> str:
    import hashlib

    return hashlib.sha256("\0".join(ids).encode("utf-8", "surrogatepass")).hexdigest()


def read_duplicates(folder: Path, ids: "Sequence[str]") -> dict[str, Any]:
    """What ``dedup`` wrote, for an audit; nothing where it has not run, or ran on other examples."""
    import numpy as np

    from repsim_jax.influence.curation import Duplicates
    from repsim_jax.influence.stored import load_arrays

    if not (folder / DUPLICATES_FILE).is_file():
        return {}
    arrays, about = load_arrays(folder / DUPLICATES_FILE)
    if about["ids"] != _digest(ids):
        return {}
    groups = tuple(np.split(arrays["rows"], np.cumsum(arrays["sizes"])[:-1])) if len(arrays["sizes"]) else ()
    found = Duplicates(
        groups=groups, threshold=about["threshold"], threshold_by=about["threshold_by"], notes=tuple(about["notes"]),
        **{name: arrays[name] for name in ("pairs", "similarities", "kinds", "p_values", "undefined")},
    )  # fmt: skip
    return {"duplicates": found, "dropped": arrays["dropped"].tolist()}


def leaks_into(
    run: str, test: str, train: Any, folder: Path, *, threshold: float | None, false_share: float, data: str | None
) -> None:
    """Which test examples are copies of training examples: a table, and what the report needs."""
    import numpy as np

    from repsim_jax.cli.examples import content_of, read_examples
    from repsim_jax.cli.influence_runs import opened_run, preparation
    from repsim_jax.errors import BadArrayError
    from repsim_jax.influence.curation import leaks
    from repsim_jax.influence.representing import representations
    from repsim_jax.influence.stored import save_arrays
    from repsim_jax.report.columns import write_columns
    from repsim_jax.report.text import printable

    ids, images, embeddings = train
    of_test = None
    if embeddings is None:
        other = read_examples(test, any_size=True)
    else:
        opened = opened_run(Path(run), data)
        prepare = preparation(opened.options)
        size = None if prepare is not None else opened.options["size"]
        other = read_examples(test, size=size, prepare=prepare)
        if other.x.shape[1:] != opened.examples.x.shape[1:]:
            raise BadArrayError(
                f"test examples have the shape {other.x.shape[1:]}, training examples {opened.examples.x.shape[1:]}. "
                "Bring them to it, or fit with --size."
            )
        of_test = representations(opened.posed, other.x)
    both = None if images is None else (images, [other.picture(row) for row in range(len(other.ids))])
    found = leaks(embeddings, of_test, images=both, threshold=threshold, false_share=false_share)
    arrays = {"pairs": found.pairs, "similarities": found.similarities, "kinds": np.asarray(found.kinds).astype("U")}
    about = {"threshold": float(found.threshold), "threshold_by": found.threshold_by, "notes": list(found.notes),
             "ids": _digest(ids), "test": content_of(test), "test_ids": list(other.ids)}  # fmt: skip
    save_arrays(folder / LEAKS_FILE, arrays, about)
    names = [(ids[row], other.ids[copy], kind) for (row, copy), kind in zip(found.pairs, found.kinds, strict=True)]
    table = {name: np.asarray([one[k] for one in names]) for k, name in enumerate(("training", "test", "kind"))}
    write_columns(folder, "leaks", table)
    typer.echo(printable(f"{len(found.pairs):,} test examples are copies of training examples: {folder / 'leaks.csv'}"))


def read_leaks(folder: Path, ids: "Sequence[str]") -> dict[str, Any]:
    """What ``dedup --test`` wrote, for an audit; nothing where it has not run, or ran on other examples."""
    from repsim_jax.cli.examples import read_examples
    from repsim_jax.errors import RepsimError
    from repsim_jax.influence.curation import Leaks
    from repsim_jax.influence.stored import load_arrays

    if not (folder / LEAKS_FILE).is_file():
        return {}
    arrays, about = load_arrays(folder / LEAKS_FILE)
    if about["ids"] != _digest(ids):
        return {}
    found = Leaks(
        **arrays, threshold=about["threshold"], threshold_by=about["threshold_by"], notes=tuple(about["notes"])
    )
    try:
        other = read_examples(about["test"], any_size=True)
        places = {one: row for row, one in enumerate(other.ids)}
        named = about["test_ids"]
        picture = lambda k: other.picture(places[named[k]]) if named[k] in places else None  # noqa: E731
    except RepsimError:
        picture = lambda _: None  # noqa: E731 (moved away: named without a picture)
    return {"leaks": found, "leak_ids": about["test_ids"], "leak_picture": picture}


def _tell(found: "Duplicates", dropped: "np.ndarray", ids: "Sequence[str]", folder: Path) -> None:
    from repsim_jax.report.text import printable, shorten

    for group in found.groups[:8]:
        typer.echo(printable(" = ".join(shorten(ids[row], 36) for row in group[:6])))
    if len(found.groups) > 8:
        typer.echo(f"and {len(found.groups) - 8:,} more groups")
    for note in found.notes:
        typer.echo(printable(f"! {note}"))
    groups = f"{len(found.groups):,} {'group' if len(found.groups) == 1 else 'groups'}"
    typer.echo(f"{groups} by {found.threshold_by}; {len(dropped):,} of the examples may be dropped")
    typer.echo(printable(str(folder / "duplicates.csv")))


def select(
    run: RunFolder,
    keep: Annotated[float, typer.Option(help="Share of the examples that is kept.")] = 0.7,
    method: Annotated[str, typer.Option(help="random, sas, prototypes, semdedup, balanced or influence.")] = "balanced",
    prefer: Annotated[
        str,
        typer.Option(
            help="hard (far from centers, or of high self-influence) or easy, of prototypes, semdedup, influence."
        ),
    ] = "hard",
    curve: Annotated[
        bool, typer.Option("--curve", help="Train anew on what each method keeps, to see what it costs, instead.")
    ] = False,
    drops: Annotated[str, typer.Option(help="Of the curve: shares that are dropped, with commas.")] = "0.1,0.3,0.5",
    methods: Annotated[str | None, typer.Option(help="Of the curve: methods, with commas. [all]")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the curve: trainings on each selection.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of the curve: updates of each training.")] = 300,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Of the curve: FILE.npy, a .parquet column, or own (those of the data), for a linear probe. Without "
            "it, the share of views that the model tells apart."
        ),
    ] = None,
    data: Moved = None,
    as_json: AsJson = False,
) -> None:
    """A smaller training set: which examples to keep.

    Copies that `repsim influence dedup` found go first. Writes RUN/selection.csv. What each method costs on your data
    is known after --curve: the run's network is trained anew on what each method keeps of three quarters of the
    examples, and judged by the last quarter. Each finished training is kept. Writes RUN/pruning.csv.

    \b
    repsim influence select digits.run --keep 0.8 --method influence
    repsim influence select digits.run --curve --labels own --drops 0.2,0.5 --methods random,balanced,influence
    """
    import numpy as np

    from repsim_jax.cli.influence_audits import scores
    from repsim_jax.cli.influence_runs import opened_run
    from repsim_jax.durable import replace_file
    from repsim_jax.influence.curation import coreset
    from repsim_jax.report.columns import write_columns

    opened = opened_run(run, data)
    ids = opened.examples.ids
    redundant = np.asarray(read_duplicates(run, ids).get("dropped", ()), int)
    if curve:
        from repsim_jax.cli.influence_curve import pruned, tell_curve

        pruned(opened, drops=drops, methods=methods, seeds=seeds, steps=steps, labels=labels, redundant=redundant)
        tell_curve(opened, as_json=as_json)
        return
    options: dict[str, Any] = {
        "method": method, "keep": keep, "prefer": prefer, "redundant": redundant,
        "self_influence": scores(opened)["self_influence"] if method == "influence" else None,
    }  # fmt: skip
    found = coreset(opened.key("selection"), opened.embeddings(), **options)
    kept = np.zeros(len(ids), bool)
    kept[np.asarray(found.kept)] = True
    write_columns(run, "selection", {"id": np.asarray(ids), "kept": kept})
    told = {"method": found.method, "keep": keep, "kept": [int(row) for row in found.kept], "ids": _digest(ids)}
    replace_file(run / SELECTION_FILE, (json.dumps(told) + "\n").encode())
    if as_json:
        typer.echo(json.dumps({**told, "kept": [ids[row] for row in found.kept]}))
        return
    typer.echo(f"{kept.sum():,} of {len(ids):,} examples are kept by {found.method}: {run / 'selection.csv'}")


def read_selection(folder: Path, ids: "Sequence[str]") -> dict[str, Any]:
    """What ``select`` wrote, for an audit; nothing where it has not run, or ran on other examples."""
    import numpy as np

    from repsim_jax.cli.influence_runs import read_record
    from repsim_jax.report.audits import Selection

    path = folder / SELECTION_FILE
    if not path.is_file():
        return {}
    told = read_record(path, ("ids", "kept", "method"))
    return (
        {} if told["ids"] != _digest(ids) else {"selection": Selection(np.asarray(told["kept"], int), told["method"])}
    )
