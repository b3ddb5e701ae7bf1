"""The ``repsim`` command: parses, makes one public call, and prints; nothing heavy loads before a command runs."""

import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import repsim_jax
from repsim_jax.cli import canonicalize, compare, contrasim, extract, influence, lists, stores, theory, tour
from repsim_jax.errors import RepsimError
from repsim_jax.report.text import printable

__all__ = ["app", "main"]

_FAILED, _INTERRUPTED = 2, 130


class _Commands(TyperGroup):
    """Turns what goes wrong into one clear message and an exit status that a gate can rely on: never 0, never 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say(
                "interrupted. Finished chunks of a store, answers of a contest, training and scores of influence are "
                "kept, and the same command goes on from there; a fit of contrasim starts anew."
            )
            raise typer.Exit(_INTERRUPTED) from None
        except SystemExit as error:  # of a user's own code: a script that ends must not look like a gate that passed
            _say(f"code that was run ended the program (sys.exit, {error.code!r}); nothing has been shown.")
            raise typer.Exit(_FAILED) from None
        except BrokenPipeError:
            raise
        except (RepsimError, OSError, MemoryError) as error:
            if ctx.params.get("show_traceback"):
                traceback.print_exc()
            _say(_message(error))
            raise typer.Exit(_FAILED) from None
        except Exception as error:
            if _is_usage(error):
                raise
            _say(f"a bug in repsim: {type(error).__name__}: {error}\n{traceback.format_exc()}")
            raise typer.Exit(_FAILED) from None


def _is_usage(error: Exception) -> bool:
    """Whether typer itself reports it: bad options, Exit and Abort, which newer versions no longer take from click."""
    return type(error).__module__.split(".")[0] in ("typer", "click")


def _message(error: BaseException) -> str:
    if isinstance(error, RepsimError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory. Compare fewer layers (--layers-a, --layers-b) or fewer examples."
    reason, path = getattr(error, "strerror", None) or str(error), getattr(error, "filename", None)
    return f"{path}: {reason}." if path else f"{reason}."


def _say(message: str) -> None:
    print("\n".join(printable(line) for line in f"repsim: {message}".splitlines()), file=sys.stderr)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("extract")(extract.extract)
app.command("compare")(compare.compare)
app.add_typer(contrasim.app, name="contrasim")
app.add_typer(theory.app, name="theory")
app.add_typer(influence.app, name="influence")
app.add_typer(canonicalize.app, name="canonicalize")
app.command("layers")(stores.layers)
app.command("inspect")(stores.inspect)
app.command("measures")(lists.measures)
app.command("models")(lists.models)
app.command("tour")(tour.tour)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"repsim_jax {repsim_jax.__version__}")
        raise typer.Exit


@app.callback()
def _repsim(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="For developers: show where an error arose.")
    ] = False,
) -> None:
    """How alike are two models, layer by layer, and is this update safe?"""


def main() -> None:
    """Runs the command line: exit status 0 (done, gate passed), 1 (gate failed), 2 (error) or 130 (interrupted)."""
    app(prog_name="repsim")
