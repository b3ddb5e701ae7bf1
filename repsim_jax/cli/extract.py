"""``repsim extract``: hidden layers of a model over a data set, streamed into a store that can be resumed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.messages import say

if TYPE_CHECKING:
    from repsim_jax.activations.extract import Recorded
    from repsim_jax.activations.store import Store
    from repsim_jax.data.sources import Source

Model = Annotated[
    str,
    typer.Argument(
        help="A built-in name (see `repsim models`), hf:FOLDER, FILE.onnx, or module:factory of your own model.",
        show_default=False,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="digits, a folder of images, or a .parquet, .txt, .npy, .npz or .safetensors file.", show_default=False
    ),
]
Column = Annotated[str | None, typer.Option(help="Column of the file: encoded images, text, or an array.")]
IdColumn = Annotated[str | None, typer.Option(help="Column of ids; row numbers where the file has none.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many examples.")]
Size = Annotated[
    int | None, typer.Option(help="Resize images to this many pixels a side, for ONNX files and models of your own.")
]

LayerGlobs = Annotated[
    list[str] | None,
    typer.Option(help="Layer or glob, quoted: 'block_*'. Repeat for more. Default: the model's own list, or all."),
]
LayoutPolicies = Annotated[
    list[str] | None,
    typer.Option(
        help="POLICY or 'GLOB=POLICY'; the first match wins. POLICY is flatten, spatial_mean, cls, token_mean or "
        "space_as_samples."
    ),
]


def extract(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the store; an unfinished one is resumed.", show_default=False)],
    column: Column = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    layers: LayerGlobs = None,
    layout: LayoutPolicies = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Examples that are computed together.")] = 32,
    size: Size = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out examples that cannot be read.")] = False,
) -> None:
    """Read hidden layers of a model over a data set into a store.

    \b
    repsim extract clip-vit-b16 --data photos/ --out clip.store
    repsim extract model.onnx --data photos.parquet --column jpeg --size 224 --layout spatial_mean --out onnx.store
    repsim extract my_code:make_model --data digits --layers 'block_*' --layout '*/attention=token_mean' --out my.store

    Stopped in the middle? Give the same command again: it goes on where it was. Which layers are there?
    `repsim layers MODEL --data ...` lists them.
    """
    from repsim_jax.activations.extract import recorded
    from repsim_jax.data.sources import open_source

    on_bad = "skip" if skip_bad else "raise"
    source = open_source(data, column=column, id_column=id_column, limit=limit, on_bad=on_bad)
    was_finished = (begun := recorded(out)) is not None and begun.finished
    store = extracted(
        model,
        source,
        out,
        column=column,
        layers=layers or None,
        layout=parse_layout(layout),
        dtype=dtype,
        batch_size=batch_size,
        size=size,
        data_sha256=_content(data),
    )
    _tell_end(store, was_finished)


def extracted(
    model: str,
    source: "Source",
    out: Path,
    *,
    column: str | None = None,
    layers: list[str] | None = None,
    layout: str | dict[str, str] | None = None,
    dtype: str = "float32",
    batch_size: int = 32,
    size: int | None = None,
    data_sha256: str | None = None,
    quiet: bool = False,
) -> "Store":
    """Extracts a named model into a store with a progress bar; goes on where an earlier run was stopped.

    Args:
        model: As ``open_model`` takes it.
        source: The examples.
        out: Folder of the store.
        column: Where the source was read from, for the record.
        layers: Layers or globs; None for the model's own list, or all.
        layout: As ``extract`` takes it.
        dtype: "float32", "float16" or "bfloat16".
        batch_size: Examples that are computed together.
        size: Side in pixels of the images, for models without a preparation of their own.
        data_sha256: Tells the examples from others under the same name.
        quiet: Without a progress bar and messages.

    Returns:
        The finished store.
    """
    from repsim_jax.activations.extract import extract as read_layers
    from repsim_jax.activations.extract import recorded
    from repsim_jax.activations.specs import open_model, prepared

    begun = recorded(out)
    if not quiet:
        _tell_start(source, begun)
    opened = open_model(model, size=size)
    # The first run's batches again, so that text padded to the longest of its batch is padded alike.
    rows = (begun and begun.batch_size) or batch_size
    with _bar(len(source), f"extracting {model}", quiet=quiet) as on_progress:
        return read_layers(
            opened.tap,
            prepared(source, opened.prepare, rows),
            layers=layers,
            layout=layout,
            store=out,
            dtype=dtype,
            metadata={
                "model": model,
                "weights_sha256": _weights(opened.tap),
                "data": describe(source, column),
                "data_sha256": data_sha256,
                "size": size,
            },
            on_progress=on_progress,
        )


def parse_layout(items: list[str] | None) -> str | dict[str, str] | None:
    """Reads what stands after ``--layout``.

    Args:
        items: "POLICY" or "GLOB=POLICY", in the order written.

    Returns:
        One policy for all layers, {glob: policy} where a lone policy comes last as "*", or None.
    """
    if not items:
        return None
    lone = [item for item in items if "=" not in item]
    if len(items) == len(lone) == 1:
        return lone[0]
    pairs = dict(item.rsplit("=", 1) for item in items if "=" in item)
    return pairs | dict.fromkeys(["*"] if lone else [], lone[-1] if lone else "")


def describe(source: "Source", column: str | None) -> dict[str, Any]:
    """What a store must remember of its data, so that a run on other examples cannot go on with it.

    Args:
        source: The data.
        column: The column that was asked for.

    Returns:
        JSON: name, column, number of examples and a checksum of their ids.
    """
    import hashlib

    digest = hashlib.sha256("\0".join(source.ids).encode("utf-8", "surrogatepass")).hexdigest()
    return {"source": source.name, "column": column, "num_examples": len(source), "ids_sha256": digest}


def _weights(tap: Any) -> str | None:
    """Which version of a model it is: a store of last week's weights under the same name must not be reused."""
    told = getattr(tap, "weights_sha256", None)
    return told() if told else None


def _content(data: str) -> str | None:
    """Which version of the data it is: the bytes of a file, the names, sizes and times of the files of a folder."""
    import hashlib

    path = Path(data)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        return None
    files = [(one, one.stat()) for one in sorted(path.rglob("*")) if one.is_file()]
    told = [f"{one.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0" for one, stat in files]
    return hashlib.sha256("".join(told).encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def _bar(total: int, what: str, *, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from repsim_jax.report.text import printable

    console = Console(stderr=True)
    label = TextColumn("{task.description}", markup=False)
    columns = (label, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(printable(what), total=total)
        yield lambda done, _: progress.update(task, completed=done)


def _tell_start(source: "Source", begun: "Recorded | None") -> None:
    for one, reason in (source.skipped or {}).items():
        say(f"left out {one}: {reason}")
    if begun is not None and not begun.finished:
        say(f"resuming at row {begun.num_rows}")


def _tell_end(store: "Store", was_finished: bool) -> None:
    passed_over = list(store.metadata.get("passed_over", {}).items())
    for layer, reason in passed_over[:5]:
        say(f"passed over {layer}: {reason}")
    if len(passed_over) > 5:
        say(f"passed over {len(passed_over) - 5} more; `repsim inspect` lists them")
    done = "was complete already" if was_finished else "written"
    print(f"{store.path} {done}: {len(store.layers)} layers, {len(store)} rows, {store.dtype.name}")
