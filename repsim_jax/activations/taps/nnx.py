"""What does every part of a flax.nnx module compute? Reads them all by wrapping ``__call__`` while JAX traces."""

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator
from typing import Any

from flax import nnx
from flax.nnx import tracers

from repsim_jax.activations.tap import JaxTap, named_outputs
from repsim_jax.errors import RepsimError
from repsim_jax.inference import inference_arguments

# Two threads that trace at once would put back each other's wrappers; a model that taps another one re-enters.
_TRACING = threading.RLock()


def nnx_tap(model: nnx.Module) -> JaxTap:
    """Taps the output of every submodule that is called, named by its path: "block_3/attention/query".

    A submodule called twice gives "name" and "name#1"; one that is shared has the path under which it is found first;
    a tuple or dict of outputs gives "name/0" or "name/key"; the model's own output is "output". The model is read in
    evaluation mode, as a copy: the user's object keeps its mode, arrays and counters. Layers inside nnx.scan, nnx.vmap,
    nnx.jit or nnx.remat belong to that transform and are not seen one by one.

    Args:
        model: Any module whose ``__call__`` takes the inputs as its one positional argument.

    Returns:
        The tap.

    Raises:
        RepsimError: If the module cannot be called.
    """
    if not callable(model):
        raise RepsimError(
            f"{type(model).__name__} has no __call__, which a tapped module needs: add one that takes the inputs."
        )
    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    graphdef, state = nnx.split(copy)

    def outputs(state: Any, inputs: Any) -> dict[str, Any]:
        module = nnx.merge(graphdef, state)
        calls: list[tuple[str, Any]] = []
        with _recorded(module, calls):
            module(inputs, **inference_arguments(type(model).__call__))
        return named_outputs(calls)

    return JaxTap(type(model).__name__, state, outputs)


@contextlib.contextmanager
def _recorded(module: nnx.Module, calls: list[tuple[str, Any]]) -> Iterator[None]:
    """Appends (path, output) to ``calls`` for each submodule of ``module`` that finishes, while the block runs."""
    parts = [(path, part) for path, part in nnx.iter_graph(module) if isinstance(part, nnx.Module) and callable(part)]
    paths = {id(part): "/".join(map(str, path)) for path, part in parts}
    owners = {next(base for base in inspect.getmro(type(part)) if "__call__" in vars(base)) for _, part in parts}
    recorder = _Recorder(paths, calls)
    with _TRACING:
        originals = {owner: vars(owner)["__call__"] for owner in owners}
        try:
            for owner, original in originals.items():
                owner.__call__ = recorder.wrapping(original)
            yield
        finally:
            for owner, original in originals.items():
                owner.__call__ = original


class _Recorder:
    def __init__(self, paths: dict[int, str], calls: list[tuple[str, Any]]):
        self.paths, self.calls = paths, calls
        self.trace = tracers.TraceState()
        self.running: set[int] = set()

    def wrapping(self, original: Any) -> Any:
        @functools.wraps(original)
        def call(module: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            bound = original.__get__(module, type(module))
            path = self.paths.get(id(module))
            # Another thread's module, a super().__call__, and values that may not leave a vmap or scan pass by.
            if path is None or id(module) in self.running or not self.trace.is_valid():
                return bound(*args, **kwargs)
            self.running.add(id(module))
            try:
                output = bound(*args, **kwargs)
            finally:
                self.running.discard(id(module))
            self.calls.append((path, output))
            return output

        return call
