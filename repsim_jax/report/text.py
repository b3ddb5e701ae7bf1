"""How may a name that a user chose appear in a terminal, a page, a table, a picture or a path?"""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Cc: terminal escapes; Cf: bidirectional overrides, zero-width marks; Cs: lone surrogates; Zl, Zp: line breaks.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# What Excel, LibreOffice and Sheets take as the start of a formula, with the full-width forms that Excel folds (OWASP).
_FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_SAFE_IN_FILE_NAMES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{k}" for port in ("com", "lpt") for k in range(10))}
)


def printable(text: object) -> str:
    """Text without control, format or unpaired characters: each is shown as U+FFFD, tabs and line breaks as a space.

    Args:
        text: Anything; ``str(text)`` is what is cleaned.

    Returns:
        One line that no terminal, browser or font acts upon.
    """
    return "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    if character in "\t\n\r":
        return " "
    return REPLACEMENT if unicodedata.category(character) in _HIDDEN_CATEGORIES else character


def shorten(text: object, limit: int) -> str:
    """Printable text of at most ``limit`` characters; the middle goes, since layer names differ at their ends.

    Args:
        text: Anything; ``str(text)`` is used.
        limit: Longest length wanted, >= 3.

    Returns:
        The text, with one ellipsis where something was left out.
    """
    clean = printable(text)
    if len(clean) <= limit:
        return clean
    head = (limit - 1) // 3
    return f"{clean[:head]}…{clean[len(clean) - (limit - 1 - head) :]}"


def labels(names: Sequence[str], limit: int) -> tuple[str, ...]:
    """Names short enough for an axis, without the path parts that all share: these tell no two layers apart.

    Args:
        names: Layer names such as "encoder/block_3/mlp".
        limit: Longest label wanted, >= 3.

    Returns:
        One printable label per name, in order.
    """
    parts = [str(name).split("/") for name in names]
    if len(parts) < 2 or max(map(len, map(str, names))) <= limit:
        return tuple(shorten(name, limit) for name in names)
    shortest = min(map(len, parts))
    first = next((k for k in range(shortest - 1) if len({part[k] for part in parts}) > 1), shortest - 1)
    last = next(
        (k for k in range(shortest - 1 - first) if len({part[-1 - k] for part in parts}) > 1), shortest - 1 - first
    )
    kept = ["/".join(part[first : len(part) - last]) for part in parts]
    return tuple(shorten(f"{'…/' if first else ''}{name}{'/…' if last else ''}", limit) for name in kept)


def csv_cell(text: object) -> str:
    """Text that a spreadsheet shows and never runs: a leading apostrophe guards what looks like a formula.

    Args:
        text: A name; numbers need no guard.

    Returns:
        The printable text, behind ``'`` where its first visible character could start a formula.
    """
    clean = printable(text)
    return (
        f"'{clean}"
        if str(text).lstrip(" ").startswith(_FORMULA_STARTS) or clean.lstrip().startswith(_FORMULA_STARTS)
        else clean
    )


def file_name(text: object, limit: int = 60) -> str:
    """A file name (without extension) that stays in its folder on every system.

    Args:
        text: What the file is about.
        limit: Longest length wanted.

    Returns:
        1 to ``limit`` letters, digits, ".", "_" and "-"; never "." or "..", hidden, or a Windows device.
    """
    plain = unicodedata.normalize("NFKD", str(text))
    kept = "".join(c if c in _SAFE_IN_FILE_NAMES else "-" for c in plain if not unicodedata.combining(c))
    stem = "-".join(part for part in kept.split("-") if part).strip(".-")[:limit].rstrip(".-")
    if not stem:
        return "unnamed"
    return f"{stem}_" if stem.split(".")[0].lower() in _WINDOWS_DEVICES else stem


def styled(text: object, style: str = "") -> "Text":
    """Printable text for rich, in which square brackets are just brackets.

    Args:
        text: Anything; ``str(text)`` is used.
        style: A rich style of ours.

    Returns:
        A ``rich.text.Text``.
    """
    from rich.text import Text

    return Text(printable(text), style=style)
