"""User text in a terminal, a table, a path: shown, never obeyed."""

import unicodedata

import pytest
from comparisons import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from repsim_jax.report.text import csv_cell, file_name, labels, printable, shorten, styled

ANY_TEXT = st.text(st.characters(), max_size=80) | st.sampled_from(HOSTILE)


@given(ANY_TEXT)
def test_printable_text_is_one_line_that_nothing_acts_upon(text: str):
    clean = printable(text)
    assert len(clean) == len(text)
    assert not {unicodedata.category(letter) for letter in clean} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(clean) == clean
    clean.encode()


@given(st.text("abcxyz/_-0123456789 äé中", max_size=60))
def test_ordinary_names_stay_as_they_are(text: str):
    assert printable(text) == text


@given(ANY_TEXT, st.integers(3, 40))
def test_shortened_text_keeps_both_ends(text: str, limit: int):
    short, clean = shorten(text, limit), printable(text)
    assert len(short) <= limit
    assert short == clean if len(clean) <= limit else (short[-1] == clean[-1] and "…" in short)


@given(ANY_TEXT)
def test_no_cell_is_a_formula(text: str):
    cell = csv_cell(text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
    assert cell.removeprefix("'") == printable(text).removeprefix("'")


@given(ANY_TEXT)
def test_a_file_name_stays_in_its_folder(text: str):
    name = file_name(text)
    assert 1 <= len(name) <= 61
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith((".", "-"))
    assert not name.endswith(".")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("linear_cka", "linear_cka"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("CON", "CON_"),
        ("nul.txt", "nul.txt_"),
        ("Café au lait", "Cafe-au-lait"),
    ],
)
def test_file_names(text: str, name: str):
    assert file_name(text) == name


def test_rich_takes_brackets_for_brackets():
    console = Console(width=200, color_system="truecolor", force_terminal=True)
    with console.capture() as captured:
        for text in HOSTILE:
            console.print(styled(text))
    assert "[bold red]x[/bold red][/]" in captured.get()
    assert "\x1b" not in captured.get()
    assert "\x07" not in captured.get()


def test_labels_leave_out_what_all_layers_share():
    names = [f"encoder/layers/block_{i}/attention/output/dense" for i in range(12)]
    assert labels(names, 24) == tuple(f"…/block_{i}/…" for i in range(12))
    assert labels(["a/b", "a/c"], 24) == ("a/b", "a/c")


@given(st.lists(st.lists(st.sampled_from(["a", "b", "block_1", "x" * 30]), min_size=1, max_size=5), max_size=6))
def test_labels_are_short_and_tell_layers_apart_where_that_is_possible(parts: list[list[str]]):
    names = ["/".join(part) for part in parts]
    found = labels(names, 20)
    assert len(found) == len(names)
    assert all(len(label) <= 20 for label in found)
