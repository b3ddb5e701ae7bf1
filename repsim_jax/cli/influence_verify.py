"""``repsim influence verify`` and ``report``: does it foretell training anew, and everything on one page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.influence import AsJson, Moved, RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from repsim_jax.cli.influence_runs import Run
    from repsim_jax.report import Audit

VERIFICATION_FILE = "verification.json"
# Below this many examples there are no kinds of them to speak of.
_FEWEST_FOR_PLAN = 40
_EXAMPLES, _FEWEST, _HELD_OUT = 96, 8, 32
# As the run itself is trained; with more of them a network hardly learns to keep the rest apart, and thrice as long.
_VIEWS = 2


def verify(
    run: RunFolder,
    examples: Annotated[
        int | None,
        typer.Option(min=8, help="Examples of the data that take part, drawn at random. [96, or 3/4 of few]"),
    ] = None,
    subsets: Annotated[int, typer.Option(min=6, help="Random halves of them that are trained on.")] = 48,
    held_out: Annotated[
        int | None,
        typer.Option(
            min=0, help="Queries that are never trained on, from the rest of the data. [32, or all there are]"
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="How often, each time with other examples, first weights and halves.")
    ] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Updates of each training.")] = 400,
    data: Moved = None,
    as_json: AsJson = False,
) -> None:
    """Does influence foretell what training without examples does? By training anew, many networks at once.

    The run's network is trained from its first weights on a sample of its data, on random halves of the sample, and
    without each one of its examples; then influence, by the run's curvature and damping, is compared with what
    happened, beside the cosine of embeddings and an example's mere presence in a half. The same is asked of examples
    that were never trained on, for which presence tells nothing. Half of the halves are trained from other weights,
    too: what these share is the ceiling. It tests the method with this run's options, not the long training of the run
    itself. Each seed is kept, so that a run that was stopped goes on. Writes RUN/verification.json. For runs that train
    their own network.

    \b
    repsim influence verify digits.run
    repsim influence verify digits.run --seeds 3 --held-out 40
    """
    from repsim_jax.cli.influence_runs import opened_run
    from repsim_jax.durable import replace_file
    from repsim_jax.errors import RepsimError

    opened = opened_run(run, data)
    if opened.network is None:
        raise RepsimError(
            "verify trains anew, and this run's model was given (--model). Check the method on a run without it, or in "
            "Python: influence.retrained with your own training."
        )
    asked = {**_parts(len(opened.examples.ids), examples, held_out), "subsets": subsets, "steps": steps}
    told = document(_verified(opened, asked, seeds), asked, opened.fingerprints)
    replace_file(run / VERIFICATION_FILE, (json.dumps(told, indent=1, allow_nan=False) + "\n").encode())
    if as_json:
        typer.echo(json.dumps(told, allow_nan=False))
        return
    _tell(told)


def _parts(total: int, examples: int | None, held_out: int | None) -> dict[str, int]:
    """How many examples are trained on, and how many of the others are asked for."""
    from repsim_jax.errors import RepsimError

    trained = min(_EXAMPLES, max(_FEWEST, round(0.75 * total))) if examples is None else examples
    left = total - trained
    if left < (held_out or 0):
        raise RepsimError(
            f"--examples {trained} and --held-out {held_out or 0} are more than the run has ({total}). Lower them."
        )
    return {"examples": trained, "held_out": min(_HELD_OUT, left) if held_out is None else held_out}


def _tell(told: dict[str, Any]) -> None:
    for one in told["verdicts"]:
        parts = [f"LDS {_spread(one, '')}"]
        parts += [f"never trained on {_spread(one, 'held_out')}"] if one["held_out"] is not None else []
        parts += [f"memorization {one['memorization']:.2f}"] if one["memorization"] is not None else []
        typer.echo(f"{one['name']:>32}: {'; '.join(parts)}")
    others = "" if told["held_out_ceiling"] is None else f"; never trained on {told['held_out_ceiling']:.2f}"
    typer.echo(f"{'ceiling':>32}: LDS {told['ceiling']:.2f}{others}")
    for one in told["verdicts"]:
        if one["memorization"] is not None and one["low"] <= 0:
            typer.echo(f"! {one['name']} foretells no better than chance here: do not lean on its scores of this run")
    typer.echo(told["told"])


def _spread(one: dict[str, Any], of: str) -> str:
    value, prefix = (one["score"], "") if not of else (one[of], f"{of}_")
    deviation = one[f"{prefix}deviation"]
    spread = "" if deviation is None else f" ± {deviation:.2f}"
    return f"{value:.2f}{spread} ({one[f'{prefix}low']:.2f} to {one[f'{prefix}high']:.2f})"


def _verified(run: "Run", asked: dict[str, int], seeds: int) -> "list[dict[str, Any]]":
    """The arrays of each seed; what was found before is read."""
    import optax

    from repsim_jax.cli.bars import bar
    from repsim_jax.cli.influence_score import SHARDS, curvature_digest
    from repsim_jax.influence import Shards

    steps = asked["steps"]
    # one object for all seeds: it is part of what is compiled
    optimizer = optax.chain(
        optax.add_decayed_weights(1e-3), optax.scale_by_adam(eps_root=1e-12),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(1e-2, steps)),
    )  # fmt: skip
    stamp = {**run.fingerprints, "damping": run.options["damping"], "verify": asked, "views_per_step": _VIEWS,
             "curvature": curvature_digest(run)}  # fmt: skip
    found = []
    with Shards(run.folder / SHARDS, stamp) as kept:
        for seed in range(seeds):
            with bar(f"training anew, seed {seed}") as told:
                one = kept(f"verify-{seed}", lambda seed=seed, told=told: _seed(run, asked, seed, optimizer, told))
            found.append(one)
    return found


def _seed(run: "Run", asked: dict[str, int], seed: int, optimizer: Any, told: Any) -> "dict[str, np.ndarray]":
    import jax
    import numpy as np

    from repsim_jax import influence
    from repsim_jax.cli.influence_fit import fitted
    from repsim_jax.influence.verification import verification

    key = jax.random.fold_in(run.key("verify"), seed)
    key_rows, key_init, key_fit, key_verify = jax.random.split(key, 4)
    count, others = asked["examples"], asked["held_out"]
    rows = np.asarray(jax.random.permutation(key_rows, len(run.examples.ids)))
    start = influence.problem(
        run.network.embed, run.network.initial(key_init), run.posed.train.rows(np.sort(rows[:count])),
        objective=_untargeted(run.posed.objective), represent=run.network.represent, batch_size=count,
    )  # fmt: skip
    kind = f"{run.options['curvature']} of the {run.options['of']}"
    found = verification(
        key_verify, start, fits={kind: lambda posed: fitted(key_fit, posed, run.options)}, damping=run.damping(),
        held_out=run.posed.train.rows(np.sort(rows[count : count + others])) if others else None,
        initial=run.network.initial, optimizer=optimizer, num_steps=asked["steps"], num_subsets=asked["subsets"],
        views_per_step=_VIEWS, on_progress=told,
    )  # fmt: skip
    ends = lambda scores: np.asarray([[one.value, *one.interval] for one in scores]).reshape(len(scores), 3)  # noqa: E731
    ceilings = [np.nan if one is None else one for one in (found.ceiling, found.held_out_ceiling)]
    return {"names": np.asarray(found.names), "scores": ends(found.scores), "held_out": ends(found.held_out),
            "memorization": found.memorization, "ceilings": np.asarray(ceilings)}  # fmt: skip


def _untargeted(objective: Any) -> Any:
    """BYOL with the model itself, held fast, for its target: a training that is one loss has no slow copy."""
    from dataclasses import replace

    return replace(objective, target_params=None) if hasattr(objective, "target_params") else objective


def document(
    found: "Sequence[Mapping[str, np.ndarray]]", asked: dict[str, int], fingerprints: dict[str, str]
) -> dict[str, Any]:
    """Means over seeds, with the interval of one seed or the least and the most of several."""
    import numpy as np

    several = len(found) > 1

    def ends(name: str, k: int, prefix: str) -> dict[str, Any]:
        each = np.stack([one[name][k] for one in found])
        value, low, high = each[:, 0].mean(), *((each[:, 0].min(), each[:, 0].max()) if several else each[0, 1:])
        deviation = float(each[:, 0].std(ddof=1)) if several else None
        first = prefix or "score"
        return {first: float(value), **{f"{prefix}_{end}".strip("_"): float(at) for end, at in
                (("low", low), ("high", high))}, f"{prefix}_deviation".strip("_"): deviation}  # fmt: skip

    verdicts = []
    for k, name in enumerate(found[0]["names"]):
        one = {"name": str(name), **ends("scores", k, "")}
        one |= ends("held_out", k, "held_out") if asked["held_out"] else {"held_out": None}
        own = np.asarray([seed["memorization"][k] for seed in found])
        one["memorization"] = None if np.isnan(own).any() else float(own.mean())
        one["memorization_deviation"] = float(own.std(ddof=1)) if several and not np.isnan(own).any() else None
        verdicts.append(one)
    ceilings = np.mean([one["ceilings"] for one in found], axis=0)
    told = (
        f"{asked['subsets']} random halves of {asked['examples']} examples, and all but one of them for each, were "
        f"trained anew for {asked['steps']} steps from the same first weights"
    )
    told += f"; {asked['held_out']} queries were never trained on" if asked["held_out"] else ""
    told += f"; {len(found)} seeds, each with other examples, weights and halves." if several else "; one seed."
    each = [{name: values.tolist() for name, values in one.items() if name != "memorization"} for one in found]
    for one, seed in zip(each, found, strict=True):
        one["memorization"] = [None if np.isnan(own) else float(own) for own in seed["memorization"]]
        one["ceilings"] = [None if np.isnan(own) else float(own) for own in seed["ceilings"]]
    return {
        "verdicts": verdicts, "ceiling": float(ceilings[0]), "told": told, "seeds": len(found),
        "held_out_ceiling": float(ceilings[1]) if asked["held_out"] else None, "each": each,
        "fingerprints": fingerprints,
    }  # fmt: skip


def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder of the page. [RUN/report]")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="FILE.npy or .parquet column of a group per example, such as a background: are some memorized more?"
        ),
    ] = None,
    data: Moved = None,
) -> None:
    """Everything that a run has found, on one page with galleries; tables and pictures lie beside it.

    It adds a plan of what to gather more of, and with --groups a test of whether groups differ in self-influence.

    The page needs nothing else and runs no script: send it to whoever should look.

    \b
    repsim influence report digits.run
    repsim influence report photographs.run --groups backgrounds.npy --out photographs.report
    """
    from repsim_jax.cli.influence_audits import audit_of
    from repsim_jax.cli.influence_runs import opened_run
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.report.influence import write_influence
    from repsim_jax.report.text import printable

    out = out or run / "report"
    check_writable(out)
    opened = opened_run(run, data)
    audit = audit_of(opened)
    audit = audit._replace(plan=_plan(opened, audit), title=title or audit.title)
    if groups is not None:
        audit = audit._replace(slices=_slices(opened, audit, groups))
    typer.echo(f"Page: {printable(str(write_influence(audit, out)))}")


def _plan(run: "Run", audit: "Audit") -> Any:
    """Kinds of examples of which there should be more."""
    from repsim_jax.influence.curation import collection_plan

    if audit.density is None or len(audit.ids) < _FEWEST_FOR_PLAN:
        return ()
    given: Any = (run.embeddings(), audit.density, audit.self_influence)
    unstable: Any = audit.stability
    return collection_plan(run.key("plan"), *given, instability=unstable)


def _slices(run: "Run", audit: "Audit", groups: str) -> Any:
    """Whether groups differ in self-influence."""
    from repsim_jax.influence.curation import slice_test

    own: Any = audit.self_influence
    return slice_test(run.key("groups"), own, per_example(run, groups, "--groups").tolist())


def per_example(run: "Run", named: str, flag: str) -> "np.ndarray":
    """A group or label of each example; what is named is of all examples, or of those that could be read."""
    import numpy as np

    from repsim_jax.cli.theory_ntk import labels_of
    from repsim_jax.errors import AlignmentError

    found = np.asarray(labels_of(named, run.options["data"]))
    total = len(run.examples.ids) + len(run.examples.skipped)
    if run.options["limit"] is not None and len(found) > total:
        found = found[:total]
    if found.ndim == 1 and len(found) == total:
        found = found[_used(run)]
    if found.shape != (len(run.examples.ids),):
        raise AlignmentError(f"{flag} needs one value for each of {total} examples, got shape {found.shape}.")
    return found


def _used(run: "Run") -> Any:
    """Which of all examples of the data could be read."""
    import numpy as np

    from repsim_jax.data.sources import open_source

    options = run.options
    source = open_source(
        options["data"], column=options["column"], id_column=options["id_column"], limit=options["limit"]
    )
    return np.asarray([one not in run.examples.skipped for one in source.ids])
