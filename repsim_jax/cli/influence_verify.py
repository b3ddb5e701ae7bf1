"""``repsim influence verify`` and ``report``: does it foretell training anew, and everything on one page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.influence import AsJson, Moved, RunFolder

if TYPE_CHECKING:
    from repsim_jax.cli.influence_runs import Run
    from repsim_jax.influence.verification import Verification
    from repsim_jax.report import Audit

VERIFICATION_FILE = "verification.json"
# Below this many examples there are no kinds of them to speak of.
_FEWEST_FOR_PLAN = 40


def verify(
    run: RunFolder,
    examples: Annotated[int, typer.Option(min=8, help="Examples of the data that take part, drawn at random.")] = 96,
    subsets: Annotated[int, typer.Option(min=3, help="Random halves of them that are trained on.")] = 48,
    steps: Annotated[int, typer.Option(min=1, help="Updates of each training.")] = 400,
    data: Moved = None,
    as_json: AsJson = False,
) -> None:
    """Does influence foretell what training without examples does? By training anew, many networks at once.

    The run's network is trained from its first weights on a sample of its data, on random halves of the sample, and
    without each one of its examples; then influence, by the run's curvature and damping, is compared with what
    happened, beside the cosine of embeddings and an example's mere presence in a half. It tests the method with this
    run's options, not the long training of the run itself. Writes RUN/verification.json. For runs that train their own
    network.

    \b
    repsim influence verify digits.run
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
    if examples > len(opened.examples.ids):
        raise RepsimError(f"--examples {examples} is more than the run has ({len(opened.examples.ids)}). Lower it.")
    found = _verified(opened, examples, subsets, steps)
    told = _document(found, opened)
    replace_file(run / VERIFICATION_FILE, (json.dumps(told, indent=1, allow_nan=False) + "\n").encode())
    if as_json:
        typer.echo(json.dumps(told, allow_nan=False))
        return
    for one in told["verdicts"]:
        memorization = "" if one["memorization"] is None else f"; memorization {one['memorization']:.2f}"
        typer.echo(f"{one['name']:>32}: LDS {one['score']:.2f} ({one['low']:.2f} to {one['high']:.2f}){memorization}")
    typer.echo(told["told"])


def _verified(run: "Run", count: int, subsets: int, steps: int) -> "Verification":
    import jax
    import numpy as np
    import optax

    from repsim_jax import influence
    from repsim_jax.cli.bars import bar
    from repsim_jax.cli.influence_fit import fitted
    from repsim_jax.influence.verification import verification

    key_rows, key_init, key_fit, key_verify = jax.random.split(run.key("verify"), 4)
    rows = np.sort(np.asarray(jax.random.permutation(key_rows, len(run.examples.ids)))[:count])
    # two views in training: with more of them a network hardly learns to keep the rest apart
    train = run.posed.train.rows(rows)
    start = influence.problem(
        run.network.embed, run.network.initial(key_init), train, objective=_untargeted(run.posed.objective),
        represent=run.network.represent, batch_size=count,
    )  # fmt: skip
    optimizer = optax.chain(
        optax.add_decayed_weights(1e-3), optax.scale_by_adam(eps_root=1e-12),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(1e-2, steps)),
    )  # fmt: skip
    kind = f"{run.options['curvature']} of the {run.options['of']}"
    with bar("training anew") as told:
        return verification(
            key_verify, start, fits={kind: lambda posed: fitted(key_fit, posed, run.options)}, damping=run.damping(),
            optimizer=optimizer, num_steps=steps, num_subsets=subsets, on_progress=told,
        )  # fmt: skip


def _untargeted(objective: Any) -> Any:
    """BYOL with the model itself, held fast, for its target: a training that is one loss has no slow copy."""
    from dataclasses import replace

    return replace(objective, target_params=None) if hasattr(objective, "target_params") else objective


def _document(found: "Verification", run: "Run") -> dict[str, Any]:
    import math

    verdicts = [
        {"name": name, "score": score.value, "low": score.interval[0], "high": score.interval[1],
         "memorization": None if math.isnan(own) else float(own)}
        for name, score, own in zip(found.names, found.scores, found.memorization, strict=True)
    ]  # fmt: skip
    told = (
        f"{found.num_subsets} random halves of {found.num_examples} examples, and all but one of them for each, were "
        f"trained anew for {found.num_steps} steps from the same first weights; one seed."
    )
    return {"verdicts": verdicts, "ceiling": None, "told": told, "fingerprints": run.fingerprints}


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
    """Whether groups differ in self-influence; groups are of all examples, or of those that could be read."""
    import numpy as np

    from repsim_jax.cli.theory_ntk import labels_of
    from repsim_jax.errors import AlignmentError
    from repsim_jax.influence.curation import slice_test

    found = np.asarray(labels_of(groups, run.options["data"]))
    total = len(audit.ids) + len(audit.skipped)
    if run.options["limit"] is not None and len(found) > total:
        found = found[:total]
    if found.ndim == 1 and len(found) == total:
        found = found[_used(run)]
    if found.shape != (len(audit.ids),):
        raise AlignmentError(f"--groups needs one group for each of {total} examples, got shape {found.shape}.")
    own: Any = audit.self_influence
    return slice_test(run.key("groups"), own, found.tolist())


def _used(run: "Run") -> Any:
    """Which of all examples of the data could be read."""
    import numpy as np

    from repsim_jax.data.sources import open_source

    options = run.options
    source = open_source(
        options["data"], column=options["column"], id_column=options["id_column"], limit=options["limit"]
    )
    return np.asarray([one not in run.examples.skipped for one in source.ids])
