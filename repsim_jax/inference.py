"""How a model is told that this is inference, when only the arguments of its ``__call__`` can say so."""

import inspect
from collections.abc import Callable
from typing import Any

# The names that flax's own examples and layers give these switches.
_OFF, _ON = ("train", "training", "is_training"), ("deterministic", "use_running_average")
_AT_INFERENCE = dict.fromkeys(_OFF, False) | dict.fromkeys(_ON, True)


def inference_arguments(call: Callable[..., Any]) -> dict[str, bool]:
    """Finds the switches between training and inference among the arguments of a call.

    Args:
        call: A model's ``__call__``.

    Returns:
        The value at inference of each switch that ``call`` takes by name: ``train``, ``training`` and ``is_training``
        are False, ``deterministic`` and ``use_running_average`` True.
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # a callable written in C has no signature
        return {}
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {name: value for name, value in _AT_INFERENCE.items() if name in by_name}
