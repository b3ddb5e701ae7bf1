"""``repsim canonicalize report``: can the canonicalizer be trusted, and what does it cost? One page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from repsim_jax.cli.canonicalize import AsJson, Folder
from repsim_jax.cli.extract import Column, IdColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jax
    import numpy as np

    from repsim_jax.cli.canonicalize_fit import Opened
    from repsim_jax.report import PoseAudit

_ORBITS, _FAILURES, _PAIRS = 3, 6, 9
_CLASSIFIER_STEPS, _CLASSIFIER_BATCH, _LEAST_LABELED = 400, 64, 40


class Asked(NamedTuple):
    """Test images and the model that is asked about them.

    Attributes:
        ids: Of the images.
        x: They.
        labels: Their classes; None where there are none.
        model: A function of images.
        told: What the model is, in words.
    """

    ids: tuple[str, ...]
    x: "np.ndarray"
    labels: "np.ndarray | None"
    model: Any
    told: str


def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Folder of the page. [FOLDER/report]")] = None,
    test: Annotated[str | None, typer.Option(help="Test images. [those that the fit held out]")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Where the training images are now, if moved.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model to repair: module:factory, whose factory() returns a function of images (b, h, w, c) in "
            "[-1/2, 1/2] to logits. [a small network trained on the labels; without labels, the canonical form itself]"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many test images.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="The larger batch whose time is taken, beside batch 1.")] = 32,
    curve: Annotated[
        bool, typer.Option(help="Whether it is fitted again on n/4, n/2 and n images, if they are upright.")
    ] = True,
    column: Column = None,
    id_column: IdColumn = None,
    as_json: AsJson = False,
) -> None:
    """Put test images under all elements of the group, and tell whether answers follow, at what cost, on which data.

    Beside the repaired model stand the model alone, the mean of its answers over the orbit, and random poses. Warnings
    come in words: too few poses, small margins, images that look alike in several poses, accuracy lost on upright
    images, time. The page needs nothing else and runs no script.

    \b
    repsim canonicalize report digits.canonical
    repsim canonicalize report photographs.canonical --test scans/ --model classifiers:resnet --no-curve
    """
    from rich.console import Console

    from repsim_jax.cli.canonicalize_fit import opened
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.cli.seeds import key_of
    from repsim_jax.report import canonicalization_summary, canonicalization_to_json, write_canonicalization
    from repsim_jax.report.text import printable

    out = out or folder / "report"
    check_writable(out)
    run = opened(folder)
    options = run.about["options"] | ({} if data is None else {"data": data})
    train, held_out, labels = _training(folder, run, options)
    tested = _tested(folder, run, test, column, id_column, held_out)
    key = key_of(options["seed"], "report")
    asked = _asked(key, tested._replace(ids=tested.ids[:limit]), train, labels, model)
    refit = _refit(run, train, held_out.x) if curve and options["objective"] != "unaligned" else None
    is_upright = options["objective"] != "unaligned"
    audit = audited(key, run.canonicalizer, asked, train, batch=batch, refit=refit, is_upright=is_upright)
    audit = audit._replace(provenance=_provenance(run, options), skipped=run.about["result"]["skipped"])
    page = write_canonicalization(audit, out)
    if as_json:
        typer.echo(json.dumps({"page": str(page)} | canonicalization_to_json(audit)))
        return
    Console(highlight=False).print(canonicalization_summary(audit))
    typer.echo(f"Page: {printable(str(page))}")


def audited(
    key: "jax.Array", canonicalizer: Any, asked: Asked, train: "np.ndarray", *, batch: int = 32, refit: Any = None,
    is_upright: bool = True,
) -> "PoseAudit":  # fmt: skip
    """Everything that a page tells, of test images and a model.

    Args:
        key: Random key.
        canonicalizer: Of images.
        asked: Test images and the model.
        train: Training images of the canonicalizer.
        batch: Whose time is taken, beside a batch of one.
        refit: As in ``canonicalization.diversity_audit``.
        is_upright: Whether the training images were said to be upright.
    """
    from repsim_jax import canonicalization as canon
    from repsim_jax.cli.bars import bar
    from repsim_jax.report import PoseAudit

    wrapped = canon.equivariant(asked.model, canonicalizer)
    with bar("orbits of the test images") as told:
        answers = canon.equivariance_audit(key, wrapped, asked.x, labels=asked.labels, on_progress=told)
    data = canon.diversity_audit(key, canonicalizer, train, asked.x, refit=refit)
    times = canon.latency_audit(wrapped, asked.x, batches=(1, batch))
    orbits, failures, chosen = _examples(canonicalizer, asked, answers, is_upright)
    return PoseAudit(
        answers, asked.told, times, data, canon.cautions(data, answers, times, is_upright=is_upright),
        canon.element_names(canonicalizer.group), orbits, failures, chosen,
    )  # fmt: skip


def _examples(canonicalizer: Any, asked: Asked, answers: Any, is_upright: bool) -> tuple[Any, Any, Any]:
    """The first images and the worst in all poses, and more of them under random elements."""
    import jax.numpy as jnp
    import numpy as np

    from repsim_jax.canonicalization import Images
    from repsim_jax.report import posed_examples

    group = canonicalizer.group
    index = np.asarray(canonicalizer(asked.x).elements.index)
    bad = np.zeros(len(asked.x), bool) | ((index != 0) & is_upright)
    alone = next((way for way in answers.ways if way.name == "model alone"), None)
    if answers.repaired.right is not None and alone is not None:
        bad |= alone.right[0] & ~answers.repaired.right[0]
    worst = np.lexsort((answers.margins, ~bad))[:_FAILURES]
    told = ["turned" if index[k] and is_upright else "class lost" if bad[k] else "least margin" for k in worst]
    names = np.asarray(asked.ids)
    rows = np.arange(min(_PAIRS, len(asked.x)))
    random = np.random.default_rng(0).integers(0, group.order, len(rows))
    turned = np.asarray(Images().act(group, group.elements(jnp.asarray(random)), jnp.asarray(asked.x[rows])))
    return (
        posed_examples(canonicalizer, names[:_ORBITS].tolist(), asked.x[:_ORBITS]),
        posed_examples(canonicalizer, names[worst].tolist(), asked.x[worst], told),
        posed_examples(canonicalizer, names[rows].tolist(), turned),
    )


def _training(folder: Path, run: "Opened", options: dict[str, Any]) -> "tuple[np.ndarray, Asked, np.ndarray | None]":
    """Training images, held-out images, and the labels of the former; refuses other data."""
    from repsim_jax.cli.canonicalize_fit import images_of, split
    from repsim_jax.errors import StoreMismatchError

    examples = images_of(options)
    if examples.fingerprint() != run.about["fingerprints"]["data"]:
        raise StoreMismatchError(folder, "was fitted on other images. Give the same again (--data), or fit anew.")
    train, rest = split(options, len(examples.ids))
    rest = rest if len(rest) else train
    labels = examples.labels
    ids = tuple(examples.ids[row] for row in rest)
    held_out = Asked(ids, examples.x[rest], None if labels is None else labels[rest], None, "")
    return examples.x[train], held_out, None if labels is None else labels[train]


def _tested(
    folder: Path, run: "Opened", test: str | None, column: str | None, id_column: str | None, held_out: Asked
) -> Asked:
    from repsim_jax.cli.canonicalize_fit import images_for

    if test is None:
        return held_out
    found = images_for(folder, run, test, column, id_column, None)
    return Asked(found.ids, found.x, found.labels, None, "")


def _asked(key: "jax.Array", tested: Asked, train: "np.ndarray", labels: Any, model: str | None) -> Asked:
    """The test images with the model that was named, or the one that suits them."""
    n = len(tested.ids)
    tested = tested._replace(x=tested.x[:n], labels=None if tested.labels is None else tested.labels[:n])
    if model is not None:
        from repsim_jax.activations.specs import named_model
        from repsim_jax.errors import RepsimError

        loaded = named_model(model)
        if not callable(loaded):
            raise RepsimError(f"--model {model} must give a function of images, got {type(loaded).__name__}.")
        return tested._replace(model=loaded, told=model)
    if labels is not None and tested.labels is not None and len(labels) >= _LEAST_LABELED:
        network = small_classifier(key, train, labels)
        return tested._replace(model=network, told="a small network trained on the labels of the training images")
    return tested._replace(labels=None, model=_itself, told="none; the answers are the canonical forms themselves")


def _itself(x: Any) -> Any:
    return x


def small_classifier(key: "jax.Array", x: "np.ndarray", labels: "Sequence[int] | np.ndarray") -> Any:
    """A small convolutional network, trained on images in the pose in which they are."""
    from functools import partial

    import jax
    import numpy as np
    import optax

    from repsim_jax.canonicalization import ViewNetwork
    from repsim_jax.cli.bars import bar
    from repsim_jax.training import train

    network = ViewNetwork((x.shape[1], x.shape[2], x.shape[3]), (32, 64), int(np.max(labels)) + 1)

    def loss(params: Any, part: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(network(params, (), part[0]), part[1]).mean()

    with bar("training a small classifier") as told:
        trained = train(
            key, network.initial(key), loss, (x, np.asarray(labels)), optimizer=optax.adam(3e-3), on_progress=told,
            num_steps=_CLASSIFIER_STEPS, batch_size=min(_CLASSIFIER_BATCH, len(x)),
        )  # fmt: skip
    return jax.jit(partial(network, trained.params, ()))


def _refit(run: "Opened", train: "np.ndarray", held_out: "np.ndarray") -> Any:
    """Trains on parts of the images, and gives the share of held-out ones that are left as they are."""
    import numpy as np

    from repsim_jax import canonicalization as canon
    from repsim_jax.cli.canonicalize_fit import objective_of, recipe_of
    from repsim_jax.cli.seeds import key_of

    options = run.about["options"]

    def refit(rows: np.ndarray) -> float:
        found = canon.fit(
            key_of(options["seed"], "fit"), train[rows], run.canonicalizer.group,
            objective=objective_of(options["objective"]), recipe=recipe_of(options, len(rows)), views=run.build.views,
        )  # fmt: skip
        return float((np.asarray(found.canonicalizer(held_out).elements.index) == 0).mean())  # pyright: ignore

    return refit


def _provenance(run: "Opened", options: dict[str, Any]) -> dict[str, str]:
    told = {name.replace("_", " "): str(one) for name, one in options.items() if one is not None and name != "data"}
    told = {"data": Path(options["data"]).name} | told
    told |= {f"{name} sha256": value for name, value in run.about["fingerprints"].items()}
    rest = run.about["provenance"].items()
    return told | {name: one if isinstance(one, str) else json.dumps(one) for name, one in rest}
