"""Sizes of memory, as they are given on the command line."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str) -> int:
    """A number of bytes, with a unit of 1,024 or none."""
    from repsim_jax.errors import RepsimError

    plain = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = plain[-1:] if plain[-1:] in _UNITS else ""
    try:
        return int(float(plain.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError) as error:
        raise RepsimError(f"--memory takes bytes, such as 500M or 4G; got {text!r}.") from error
