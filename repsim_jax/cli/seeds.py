"""Random keys from ``--seed``, the same for every command that draws."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax


def key_of(seed: int, purpose: str) -> "jax.Array":
    """A random key for one purpose, whatever else is drawn from the same seed."""
    import zlib

    import jax

    from repsim_jax.errors import RepsimError

    try:
        return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
    except OverflowError as error:
        raise RepsimError(f"--seed must fit into 64 bits, got {seed}.") from error
