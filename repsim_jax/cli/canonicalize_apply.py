"""``repsim canonicalize apply``: images in their canonical pose, and a table of how each was turned."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.canonicalize import AsJson, Folder
from repsim_jax.cli.extract import Column, IdColumn, Limit

if TYPE_CHECKING:
    import numpy as np

IMAGES, ARRAYS, TABLE = "images", "canonical.npz", "elements"
_BATCH = 256


def apply(
    folder: Folder,
    data: Annotated[str, typer.Argument(help="Images, as for `fit`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the result.")] = Path("upright"),
    pictures: Annotated[bool, typer.Option("--png/--no-png", help="Whether each image is written as a PNG.")] = True,
    column: Column = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Bring images into their canonical pose.

    OUT/elements.csv says for each image by how many degrees (counter-clockwise) it was turned away from its canonical
    pose, whether it was mirrored before that, the margin of the choice, and ties; OUT/canonical.npz has the images as
    the canonicalizer takes them, of the size of the fit, and OUT/images the same as PNG.

    \b
    repsim canonicalize apply photographs.canonical scans/ --out upright
    """
    import numpy as np

    from repsim_jax.cli.canonicalize_fit import images_for, opened
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.durable import writing
    from repsim_jax.report.columns import write_columns
    from repsim_jax.resumable import fingerprint

    check_writable(out)
    run = opened(folder)
    examples = images_for(folder, run, data, column, id_column, limit)
    canonical, columns = turned_back(run.canonicalizer, examples.ids, examples.x)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    if pictures:
        columns["file"] = np.asarray(_write_pictures(out / IMAGES, examples.ids, canonical))
    write_columns(out, TABLE, columns)
    _write_arrays(out / ARRAYS, canonical, examples.ids)
    moved = float((columns["element"] != 0).mean())
    told = {"out": str(out), "images": len(examples.ids), "skipped": examples.skipped, "turned": moved,
            "median_margin": float(np.median(columns["margin"])), "ties": int((columns["ties"] > 1).sum()),
            "canonical_sha256": fingerprint(canonical)}  # fmt: skip
    if as_json:
        typer.echo(json.dumps(told))
        return
    typer.echo(
        f"{out}: {len(examples.ids):,} images, {moved:.1%} of them turned, median margin {told['median_margin']:.3f}, "
        f"{told['ties']:,} with ties. Table: {out / TABLE}.csv"
    )


def turned_back(
    canonicalizer: Any, ids: tuple[str, ...], x: "np.ndarray"
) -> "tuple[np.ndarray, dict[str, np.ndarray]]":
    """Canonical forms, and columns of what was done to each."""
    import jax
    import numpy as np

    from repsim_jax.canonicalization import turns_of

    parts = [canonicalizer(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)]
    found = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    turns = turns_of(found.elements.matrix)
    columns = {
        "id": np.asarray(ids), "element": found.elements.index, "degrees": turns.degrees,
        "mirrored": turns.mirrored, "margin": found.margin, "ties": found.num_ties,
        "gated": found.gated,
    }  # fmt: skip
    return found.canonical, columns


def _write_pictures(folder: Path, ids: tuple[str, ...], x: "np.ndarray") -> list[str]:
    import io

    import numpy as np

    from repsim_jax.durable import replace_file, writing
    from repsim_jax.errors import BadArrayError, MissingPackageError
    from repsim_jax.report.text import file_name

    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError.of("pillow", "to write images; or give --no-png", "images") from error
    if x.shape[-1] not in (1, 3):
        raise BadArrayError(f"images of {x.shape[-1]} channels are no PNG; give --no-png, and take canonical.npz.")
    low, high = min(float(x.min()), -0.5), max(float(x.max()), 0.5)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, (one, image) in enumerate(zip(ids, x, strict=True)):
        pixels = np.rint(255 * (image - low) / (high - low)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
        # the number keeps apart what only differs in letters that no file name has
        names.append(f"{number:06d}_{file_name(Path(one).with_suffix(''))}.png")
        replace_file(folder / names[-1], buffer.getvalue())
    return [f"{folder.name}/{name}" for name in names]


def _write_arrays(path: Path, x: "np.ndarray", ids: tuple[str, ...]) -> None:
    import io

    import numpy as np

    from repsim_jax.durable import replace_file

    buffer = io.BytesIO()
    np.savez(buffer, x=x, ids=np.asarray(ids))
    replace_file(path, buffer.getvalue())
