"""``repsim canonicalize fit``: from images, without labels, to a canonicalizer in a folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from repsim_jax.cli.canonicalize import AsJson
from repsim_jax.cli.extract import Column, IdColumn, Limit, Size

if TYPE_CHECKING:
    import numpy as np

    from repsim_jax.canonicalization import Build, Canonicalizer, Objective, Recipe
    from repsim_jax.cli.examples import Examples

TRAINING = "training"
OBJECTIVES = ("ours", "paper", "unaligned")


class Opened(NamedTuple):
    """A fitted canonicalizer and what the record of its folder says.

    Attributes:
        canonicalizer: It.
        build: What it was made from.
        about: Options, fingerprints, results and provenance.
    """

    canonicalizer: "Canonicalizer"
    build: "Build"
    about: dict[str, Any]


def fit(
    data: Annotated[
        str,
        typer.Argument(
            help="The images: digits, a folder of images, or a .parquet, .npy, .npz or .safetensors file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the result; an unfinished fit is resumed.")] = Path("canonical"),
    group: Annotated[
        str, typer.Option(help="What should not matter: c4 or any C_n, d4 (with mirror images), so2 or o2 (any angle).")
    ] = "c4",
    objective: Annotated[
        str, typer.Option(help="ours (upright images), paper (its weights), unaligned (images in any pose).")
    ] = "ours",
    steps: Annotated[int, typer.Option(min=1, help="Updates of each round.")] = 500,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, with images realigned before each but the first.")] = 1,
    neighbors: Annotated[
        int,
        typer.Option(
            min=0, help="For unaligned: first bring each image into line with so many most alike; 0 does not."
        ),
    ] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of an update.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="The first; it falls to zero.")] = 2e-3,
    view: Annotated[int, typer.Option(min=4, help="Longer side, in pixels, of what the network sees.")] = 64,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the images that is kept for the report, at random.")
    ] = 0.2,
    column: Column = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="Of the network, the batches, and what is held out.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Learn which pose of an image is upright, without labels.

    The result makes any model equivariant to the last bit for quarter turns and mirror images, trained or not; training
    makes the canonical pose the one that the model knows. Images that cannot be read are named and left out. Stopped in
    the middle? Give the same command again.

    \b
    repsim canonicalize fit digits --out digits.canonical
    repsim canonicalize fit photographs/ --size 64 --group d4 --out photographs.canonical
    repsim canonicalize fit scans.parquet --column jpeg --size 96 --objective unaligned --out scans.canonical
    Then: repsim canonicalize report FOLDER, and repsim canonicalize apply FOLDER DATA
    """
    from repsim_jax import canonicalization as canon
    from repsim_jax.cli.bars import bar
    from repsim_jax.cli.examples import content_of
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.cli.provenance import provenance
    from repsim_jax.cli.seeds import key_of

    check_writable(out)
    posed = objective_of(objective)
    turned = canon.group_named(group)
    options = {
        "data": content_of(data), "column": column, "id_column": id_column, "limit": limit, "size": size,
        "group": group, "objective": objective, "steps": steps, "rounds": rounds, "batch_size": batch_size,
        "learning_rate": learning_rate, "neighbors": neighbors, "view": view, "held_out": held_out, "seed": seed,
    }  # fmt: skip
    examples = images_of(options)
    train, _ = split(options, len(examples.ids))
    views, shape = canon.Views(view), examples.x.shape[1:]
    build = canon.Build(group, (shape[0], shape[1], shape[2]), views)
    with bar(f"training ({objective})") as told:
        found = canon.fit(
            key_of(seed, "fit"), examples.x[train], turned, objective=posed, recipe=recipe_of(options, len(train)),
            views=views, folder=out / TRAINING, on_progress=told,
        )  # fmt: skip
    result = {
        "examples": len(train), "held_out": len(examples.ids) - len(train), "skipped": examples.skipped,
        "identity_rate": found.identity_rate, "median_margin": found.median_margin,
        "first_loss": float(found.losses[0]), "last_loss": float(found.losses[-1]),
    }  # fmt: skip
    about = {"options": options, "fingerprints": {"data": examples.fingerprint()}, "result": result}
    canon.save_canonicalizer(out, found.canonicalizer, build, about | {"provenance": provenance()})
    if as_json:
        typer.echo(json.dumps({"folder": str(out)} | about))
        return
    typer.echo(
        f"{out}: {len(train):,} images, {turned.name}, loss {result['first_loss']:.3f} to {result['last_loss']:.3f}; "
        f"{found.identity_rate:.1%} of them are left as they are. Next: repsim canonicalize report {out}"
    )


def objective_of(name: str) -> "Objective":
    """The weights of a name; refuses others before minutes of work."""
    from repsim_jax import canonicalization as canon
    from repsim_jax.errors import UnknownNameError

    if name not in OBJECTIVES:
        raise UnknownNameError.of("objective", name, OBJECTIVES)
    return {"ours": canon.OURS, "paper": canon.PAPER, "unaligned": canon.UNALIGNED}[name]


def recipe_of(options: dict[str, Any], n: int) -> "Recipe":
    """How so many images are trained on."""
    from repsim_jax.canonicalization import Recipe

    neighbors = options.get("neighbors", 0) if options["objective"] == "unaligned" else 0
    return Recipe(
        num_steps=options["steps"], batch_size=min(options["batch_size"], n), num_rounds=options["rounds"],
        learning_rate=options["learning_rate"], num_neighbors=min(neighbors, n - 1),
    )  # fmt: skip


def images_of(options: dict[str, Any]) -> "Examples":
    """Reads the images of a run's options, names what is left out, and refuses what are no images."""
    from repsim_jax.cli.examples import read_examples
    from repsim_jax.cli.messages import say
    from repsim_jax.errors import BadArrayError

    examples = read_examples(
        options["data"], column=options["column"], id_column=options["id_column"], limit=options["limit"],
        size=options["size"], taker="canonicalize",
    )  # fmt: skip
    for number, (one, reason) in enumerate(examples.skipped.items()):
        if number < 10:
            say(f"left out {one}: {reason}")
    if len(examples.skipped) > 10:
        say(f"and {len(examples.skipped) - 10} more")
    if examples.x.ndim != 4:
        raise BadArrayError(
            f"canonicalize takes images (n, height, width, channels) or (n, height, width); {examples.name} has rows "
            f"of shape {examples.x.shape[1:]}."
        )
    return examples


def split(options: dict[str, Any], n: int) -> "tuple[np.ndarray, np.ndarray]":
    """Rows that are trained on, and rows that are held out, at random by the seed."""
    import numpy as np

    order = np.random.default_rng(options["seed"]).permutation(n)
    count = min(round(options["held_out"] * n), n - 1)
    return np.sort(order[count:]), np.sort(order[:count])


def opened(folder: Path) -> Opened:
    """Opens a folder that ``fit`` wrote."""
    from repsim_jax.canonicalization import load_canonicalizer
    from repsim_jax.canonicalization.keeping import ABOUT_FILE
    from repsim_jax.errors import CorruptFileError

    found = Opened(*load_canonicalizer(folder))
    if not {"options", "fingerprints", "result", "provenance"} <= found.about.keys():
        raise CorruptFileError(folder / ABOUT_FILE, "was not written by `repsim canonicalize fit`. Fit again.")
    return found


def images_for(folder: Path, run: Opened, data: str, column: str | None, id_column: str | None, limit: Any) -> Any:
    """Reads other images as those of the fit: of one size and as many channels."""
    from repsim_jax.errors import BadArrayError

    height, width, _ = shape = run.build.input_shape
    size = height if height == width and run.about["options"]["size"] is not None else None
    found = images_of(
        {"data": data, "column": column, "id_column": id_column, "limit": limit, "size": size}
    )  # fmt: skip
    if found.x.shape[1:] != shape:
        raise BadArrayError(
            f"the canonicalizer in {folder} takes images of shape {shape} (height, width, channels); those of "
            f"{found.name} have {found.x.shape[1:]}. Fit with --size, which resizes all images."
        )
    return found
