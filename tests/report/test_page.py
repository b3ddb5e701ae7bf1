"""The page: self-contained, without script, and every name only text in it."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from comparisons import HOSTILE, by_example, hostile, made_up

from repsim_jax.errors import FileError, NoSpaceError
from repsim_jax.evaluation import Check, GateResult
from repsim_jax.report import page, render, write

FAILED = Check(HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[3], 0.81, ">=", 0.9, False)
VOID = {"meta", "img", "source", "link", "br", "hr"}


class Outline(HTMLParser):
    """Tags with their attribute names, and the text between them."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.links, self.open, self.text = [], set(), [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline_of(hostile_names: bool) -> Outline:
    names = HOSTILE if hostile_names else tuple(f"layer_{k}" for k in range(len(HOSTILE)))
    comparison = hostile() if hostile_names else made_up(
        measures=("linear_cka", "cca"), layers_a=names, layers_b=names, num_examples=100, notes=names[:4],
        settings={key: key for key in names}, by_example=by_example(names, names),
    )  # fmt: skip
    failed = FAILED if hostile_names else FAILED._replace(rule="r", layer_a="a", layer_b="b", measure="m")
    gate = GateResult(False, (failed,), (failed,), names[0])
    return Outline(render(comparison, title=names[1], gate=gate, provenance={name: name for name in names}))


@pytest.fixture(scope="module")
def outline() -> Outline:
    return outline_of(hostile_names=True)


def test_hostile_names_add_no_tag_and_no_attribute(outline: Outline):
    harmless = outline_of(hostile_names=False)
    assert set(outline.tags) == set(harmless.tags)
    assert outline.attributes == harmless.attributes
    assert outline.open == []
    assert "script" not in outline.tags


def test_hostile_names_are_shown_as_they_are(outline: Outline):
    text = "".join(outline.text)
    for name in HOSTILE[:10]:
        assert name in text
    assert not set(text) & set("\x00\x07\x1b\x9b\u202e\u2066")


def test_the_page_loads_nothing_and_runs_nothing(outline: Outline, written: Path):
    assert {link.split(",")[0] for link in outline.links if link.startswith("data:")} == {"data:image/svg+xml;base64"}
    others = {link for link in outline.links if not link.startswith("data:")}
    assert all(
        re.fullmatch(r"#[a-z]+|table\.csv|examples\.csv|comparison\.json|figures/[\w.-]+", link) for link in others
    )
    text = written.read_text()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert policy.replace("'", "&#39;") in text or policy in text
    assert not re.search(r"<script|\son\w+=|javascript:|url\(|@import", text)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(made_up(4, 4), tmp_path_factory.mktemp("report") / "out")


def test_every_link_to_a_file_has_its_file(written: Path):
    links = {link for link in Outline(written.read_text()).links if not link.startswith(("data:", "#"))}
    assert len(links) > 10
    for link in links:
        assert (written.parent / link).stat().st_size > 0
    assert sorted(one.name for one in written.parent.iterdir()) == [
        "comparison.json", "figures", "report.html", "table.csv"
    ]  # fmt: skip


def test_the_page_can_be_read_without_seeing_it(written: Path):
    text = written.read_text()
    outline = Outline(text)
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert outline.tags.count("h1") == 1
    assert outline.tags.count("img") == len(re.findall(r'alt="[^"]{40,}"', text)) == 6
    assert outline.tags.count("table") == outline.tags.count("thead")
    assert all('scope="' in cell for cell in re.findall(r"<th[ >][^>]*>", text))


def test_one_layer_and_one_measure_are_enough():
    outline = Outline(render(made_up(1, 1, ("rsa",))))
    assert outline.tags.count("img") == 1
    assert "Measure by measure" not in "".join(outline.text)


def test_the_gate_stands_on_the_page_with_its_evidence():
    passed = "".join(Outline(render(made_up(1, 1, ("rsa",)), gate=GateResult(True, (), (FAILED,), "policy.toml"))).text)
    assert "Gate passed" in passed
    failed = "".join(
        Outline(render(made_up(1, 1, ("rsa",)), gate=GateResult(False, (FAILED,) * 201, (FAILED,) * 201, "p"))).text
    )
    assert "Gate failed" in failed
    assert "First 200 of 201 failed checks" in failed


def test_an_earlier_report_is_replaced_and_other_files_stay(tmp_path: Path):
    write(made_up(3, 3, ("cca",)), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write(made_up(3, 3, ("rsa",)), tmp_path, title="Second")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {one.stem for one in (tmp_path / "figures").iterdir()} == {"heat_rsa", "nearest_layers"}
    assert "Second" in (tmp_path / "report.html").read_text()
    assert len(list(csv.reader((tmp_path / "table.csv").read_text().splitlines()))) == 10
    assert json.loads((tmp_path / "comparison.json").read_text())["schema"] == "repsim.compare/1"


@pytest.mark.parametrize(("number", "kind"), [(28, NoSpaceError), (13, FileError)], ids=["disk full", "no permission"])
def test_a_failed_write_leaves_the_earlier_report(tmp_path: Path, monkeypatch, number: int, kind: type[Exception]):
    write(made_up(2, 2, ("rsa",)), tmp_path, title="First")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(self: Path, content: bytes) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(page.Path, "write_bytes", fail)
    with pytest.raises(kind, match="the report cannot be written"):
        write(made_up(3, 3, ("rsa",)), tmp_path, title="Second")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_page_tells_what_changed_and_lists_every_example_in_a_file(tmp_path: Path):
    layers, ids = tuple(f"block_{k}" for k in range(6)), tuple(f"=photo_{i}.jpg" for i in range(40))
    found = by_example(layers, ids)
    text = write(made_up(layers_a=layers, layers_b=layers, by_example=found), tmp_path).read_text()
    assert "What changed, example by example" in text
    order = np.argsort(found.scores.mean(0))
    listed = re.findall(r'<th scope="row" class="name">=(photo_\d+\.jpg)', text)
    assert listed == [ids[i][1:] for i in order[:12]]
    with (tmp_path / "examples.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "mean", *layers]
    assert [row[0] for row in rows[1:]] == [f"'{ids[i]}" for i in order]
    np.testing.assert_allclose([float(row[1]) for row in rows[1:]], found.scores.mean(0)[order], rtol=1e-5)
    assert (tmp_path / "figures" / "changes.png").stat().st_size > 5000
    document = json.loads((tmp_path / "comparison.json").read_text())["by_example"]
    assert document["changed_most"][0]["id"] == ids[order[0]]
    assert document["medians"]["block_5"] == pytest.approx(np.median(found.scores[5]))


def test_models_that_differ_have_no_chapter_on_what_changed(tmp_path: Path):
    assert "What changed" not in write(made_up(), tmp_path).read_text()
    assert not (tmp_path / "examples.csv").exists()
