"""The library that integrates differential equations, loaded where it is needed."""

from typing import Any

from repsim_jax.errors import MissingPackageError


def load_diffrax() -> Any:
    """diffrax, which the extra ``theory`` brings.

    Returns:
        The module.

    Raises:
        MissingPackageError: If it is not installed.
    """
    try:
        import diffrax
    except ImportError as error:
        raise MissingPackageError.of("diffrax", "to integrate gradient flow", "theory") from error
    return diffrax
