"""``repsim contrasim benchmark``: the paper's three benchmarks, on real models and data, into one table each."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.outs import check_writable

if TYPE_CHECKING:
    from repsim_jax.activations.store import Store
    from repsim_jax.data.sources import Source
    from repsim_jax.evaluation.contests import Standing
    from repsim_jax.evaluation.contests.parts import Parts

_IMAGE_MODELS = {"clip-vit-b16": "block_11", "vit-s14-saliency": "block_11", "efficientnet-lite0": "block_15"}
_TEXT_MODELS = {"minilm-l6": "block_5", "multilingual-e5-small": "block_11", "use-multilingual": "sentence"}
_LANGUAGES = {
    # USE was not trained on Czech and Swedish, and is asked about them all the same.
    "multilingual-e5-small": ("block_2", "block_5", "block_8", "block_11"),
    "use-multilingual": ("sentence",),
}
_CODES = ("en", "de", "fr", "ru", "zh", "ar", "es", "tr", "cs", "sv")
_FILES = {
    "layers-cifar10": ("cifar10_jpeg.parquet",),
    "layers-language": ("ptb_wsj_sample.parquet", "tatoeba.parquet"),
    "languages": ("pud_parallel_10lang.parquet",),
    "captions": ("flickr8k_700.parquet", "coco_mini.parquet"),
}
CONTESTS = ("layers-digits", *_FILES)
# Between two lines of progress where there is no terminal.
_QUIET_SECONDS = 15.0


def benchmark(
    data: Annotated[
        Path | None, typer.Option(help="Folder with cifar10_jpeg.parquet and the others; without it: digits alone.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help=f"Comma-separated, of: {', '.join(CONTESTS)}. By default all there is data for.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for trained networks, layers and tables; resumed.")] = Path(
        "out/contrasim"
    ),
    results: Annotated[Path | None, typer.Option(help="Also write the JSON tables here (benchmarks/results).")] = None,
    models: Annotated[int, typer.Option(min=6, help="Networks that differ in their seed, for layer prediction.")] = 12,
    steps: Annotated[int, typer.Option(min=1, help="Updates of each learned measure.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of splits, fits, trials and intervals.")] = 0,
) -> None:
    """Which measure finds what belongs together? Layers of other seeds, translations, images and captions.

    Every learned measure is asked about models that it was fitted on, and about models that it has not seen; every
    measure gets the same examples, with random and with hard alternatives, at several numbers of examples.

    \b
    repsim contrasim benchmark --models 6 --steps 50                        # digits, a few minutes
    repsim contrasim benchmark --data ../shared/data                        # all; hours on two cores
    repsim contrasim benchmark --data ../shared/data --only captions --results benchmarks/results

    An interrupted run goes on where it stopped: trained networks, layers, and answers given by this very version of
    the code are kept under --out.
    """
    chosen = _chosen(only, data)
    check_writable(out)
    for name in chosen:
        with _telling(name) as told:
            standings = _run(name, data, out, models, steps, seed, _parts(out), told)
        _write(name, standings, out, results, {"models": models, "steps": steps, "seed": seed})
        _show(name, standings)


def _chosen(only: str | None, data: Path | None) -> list[str]:
    from repsim_jax.errors import FileError, RepsimError, UnknownNameError

    names = list(CONTESTS) if only is None else [one.strip() for one in only.split(",") if one.strip()]
    if not names:
        raise RepsimError(f"--only names no contest. There are: {', '.join(CONTESTS)}.")
    for name in names:
        if name not in CONTESTS:
            raise UnknownNameError.of("contest", name, CONTESTS)
    if only is None and data is None:
        return ["layers-digits"]
    for name in names:
        for file in _FILES.get(name, ()):
            if data is None or not (data / file).is_file():
                raise FileError(data or file, f"{name} needs {file}: name its folder with --data, or leave {name} out.")
    return names


def _parts(out: Path) -> "Parts":
    """Where answers are kept; nowhere while the code has changes that no commit tells."""
    from repsim_jax.cli.provenance import provenance
    from repsim_jax.evaluation.contests.parts import Parts

    made = provenance()
    return Parts(None if made["dirty"] else out / "parts", version=repr((made["commit"], made["versions"])))


def _run(
    name: str,
    data: Path | None,
    out: Path,
    models: int,
    steps: int,
    seed: int,
    parts: "Parts",
    told: Callable[[str], None],
) -> "list[Standing]":
    folder = data or Path()
    if name.startswith("layers-"):
        from repsim_jax.evaluation.contests import layer_contest

        titles = {"digits": "layers of digits networks", "cifar10": "layers of CIFAR-10 networks (lossy JPEG)"}
        kind = name.removeprefix("layers-")
        stores = _population(kind, folder, out / kind, models, seed, told)
        title = titles.get(kind, "layers of language models")
        return layer_contest(title, stores, seed=seed, steps=steps, on_progress=told, parts=parts)
    return (_languages if name == "languages" else _captions)(folder, out, steps, seed, parts, told)


def _population(
    kind: str, data: Path, out: Path, models: int, seed: int, told: Callable[[str], None]
) -> "dict[str, Store]":
    from repsim_jax.evaluation.populations import image_networks, language_models

    def on_progress(name: str, done: int, total: int) -> None:
        told(f"training {kind} network {name}: step {done} of {total}")

    if kind == "language":
        return language_models(out, data=data, num_models=models, seed=seed, on_progress=on_progress)
    source = "digits" if kind == "digits" else data / "cifar10_jpeg.parquet"
    return image_networks(out, data=source, num_models=models, seed=seed, on_progress=on_progress)


def _languages(
    data: Path, out: Path, steps: int, seed: int, parts: "Parts", told: Callable[[str], None]
) -> "list[Standing]":
    from repsim_jax.data import open_source
    from repsim_jax.evaluation.contests import language_contest

    made: list[Standing] = []
    others: list[Any] = []
    file = data / "pud_parallel_10lang.parquet"
    for model, layers in _LANGUAGES.items():
        stores = {
            code: _layers(
                model, open_source(file, column=code, id_column="sent_id"), out / "pud" / f"{model}.{code}.store"
            )
            for code in _CODES
        }
        lines, fitted = language_contest(
            f"translations under {model}",
            stores,
            layers=layers,
            elsewhere=others,
            seed=seed,
            steps=steps,
            on_progress=told,
            parts=parts,
        )
        made, others = made + lines, fitted
    return made


def _captions(
    data: Path, out: Path, steps: int, seed: int, parts: "Parts", told: Callable[[str], None]
) -> "list[Standing]":
    from repsim_jax.evaluation.contests import caption_contest
    from repsim_jax.evaluation.contests.captions import paired

    pairs = []
    for name, file, column in (("flickr8k", "flickr8k_700.parquet", "file"), ("coco", "coco_mini.parquet", "id")):
        images, texts = _images_and_captions(data / file, column)
        stored = [
            {model: (_layers(model, source, out / name / f"{model}.store"), layer) for model, layer in models.items()}
            for models, source in ((_IMAGE_MODELS, images), (_TEXT_MODELS, texts))
        ]
        pairs.append(paired(*stored, example=lambda one: one.rpartition("#")[0]))
    return caption_contest(pairs[0], elsewhere=pairs[1], seeds=(seed,), steps=steps, on_progress=told, parts=parts)


def _images_and_captions(file: Path, id_column: str) -> "tuple[Source, Source]":
    """The images of a table that have captions, and their captions, with ids "image#k"."""
    from dataclasses import replace

    from repsim_jax.data import open_source

    images = open_source(file, column="jpeg", id_column=id_column)
    captions = open_source(file, column="captions", id_column=id_column)
    spoken = {one.rpartition("#")[0] for one in captions.ids}
    rows = [row for row, one in enumerate(images.ids) if one in spoken]
    told = replace(images, ids=tuple(images.ids[row] for row in rows), get=lambda i: images.get(rows[i]))
    return told, captions


def _layers(model: str, source: "Source", out: Path) -> "Store":
    """The layers of a model over a source; a finished store of the same examples is taken as it is."""
    from repsim_jax.activations.extract import recorded
    from repsim_jax.activations.store import open_store
    from repsim_jax.cli.extract import extracted
    from repsim_jax.errors import StoreMismatchError

    begun = recorded(out) if out.exists() else None
    if begun is None or not begun.finished:
        return extracted(model, source, out)
    store = open_store(out)
    if store.ids != source.ids or store.metadata.get("model") not in (model, None):
        raise StoreMismatchError(
            out, f"holds other examples than {source.name}, or another model. Choose another --out."
        )
    return store


@contextmanager
def _telling(name: str) -> Iterator[Callable[[str], None]]:
    """Shows what a contest is at: as a status in a terminal, else as a line now and then."""
    import time

    from rich.console import Console

    from repsim_jax.report.text import styled

    console = Console(stderr=True)
    if not console.is_terminal:
        said = 0.0

        def tell(line: str) -> None:
            nonlocal said
            if time.monotonic() - said > _QUIET_SECONDS:
                said = time.monotonic()
                typer.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)

        yield tell
        return
    with console.status(name) as status:
        yield lambda line: status.update(styled(line))


def _write(
    name: str, standings: "Iterable[Standing]", out: Path, results: Path | None, settings: dict[str, Any]
) -> None:
    import json

    from repsim_jax.cli.provenance import provenance
    from repsim_jax.durable import replace_file

    lines = [one.to_json() for one in standings]
    document = {"benchmark": f"contrasim {name}", **provenance(), "settings": settings, "standings": lines}
    for folder in (out, *([results] if results is not None else [])):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"contrasim_{name.replace('-', '_')}.json"
        replace_file(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def _show(name: str, standings: "list[Standing]") -> None:
    from itertools import groupby

    from rich import box
    from rich.console import Console
    from rich.table import Table

    def question(one: "Standing") -> tuple[str, str, int]:
        return one.contest, one.negatives, one.size

    console = Console(highlight=False)
    console.print(f"\n{name}", style="bold")
    ordered = sorted(standings, key=lambda one: (*question(one), -one.interval.mean))
    for (contest, negatives, size), lines in groupby(ordered, question):
        table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        rows = list(lines)
        told = f", {negatives} alternatives" if negatives else ""
        table.title = f"{contest}{told}: n = {size}, chance {rows[0].chance:.2f}"
        for column in ("measure", "fitted on", "right", "95 % interval", "over the best closed form"):
            table.add_column(column, justify="right" if column == "right" else "left", overflow="fold")
        for one in rows:
            between = f"{one.interval.low:.2f} to {one.interval.high:.2f}"
            table.add_row(one.contestant, one.trained_on, f"{one.interval.mean:.2f}", between, _lead(one))
        console.print(table)


def _lead(one: "Standing") -> str:
    return "" if one.lead is None else f"{one.lead.mean:+.2f} ({one.lead.low:+.2f} to {one.lead.high:+.2f})"
