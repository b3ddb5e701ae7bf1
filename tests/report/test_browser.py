"""The page in a real browser: light and dark, wide and narrow, with names that try to run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import BINARY, Browser
from comparisons import HOSTILE, hostile, made_up

from repsim_jax.evaluation import Check, GateResult
from repsim_jax.report import write

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium or Chrome is installed")

WIDE, PHONE = 1280, 390
FAILED = Check("rule 1", "block_0/mlp", HOSTILE[0], "linear_cka", 0.81, ">=", 0.9, False)
TITLE = "</title><script>document.title='owned'</script> & <b>more</b>"
# Elements wider than the window that no scrolling box holds.
STICKING_OUT = """[...document.querySelectorAll('body *')].filter(
    one => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.box, .plate')
  ).map(one => one.tagName + '.' + one.className)"""
# WCAG contrast of the text of the first element of each kind against the first opaque background behind it.
CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(
    v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = one => { const c = getComputedStyle(one).backgroundColor;
    return c !== 'rgba(0, 0, 0, 0)' ? c : one.parentElement ? behind(one.parentElement) : 'rgb(255, 255, 255)'; };
  const found = {};
  for (const kind of ['h1', '.lead', '.eyebrow', 'dt', 'dd', 'a', 'th', 'td', 'caption', 'figcaption',
                      'footer', '.care', '.gate h2', '.gate p']) {
    const one = document.querySelector(kind);
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    found[kind] = (a + .05) / (b + .05);
  }
  return found; })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    gate = GateResult(False, (FAILED,), (FAILED,) * 4, HOSTILE[1])
    provenance = {name: name for name in HOSTILE}
    return {
        "hostile": write(hostile(), folder / "hostile", title=TITLE, gate=gate, provenance=provenance),
        "usual": write(
            made_up(12, 18, ("linear_cka_unbiased", "linear_cka", "rsa"), num_examples=100), folder / "usual"
        ),
        "smallest": write(made_up(1, 1, ("rsa",)), folder / "smallest"),
    }


@pytest.mark.parametrize("width", [WIDE, PHONE, 320], ids=["wide", "phone", "smallest phone"])
@pytest.mark.parametrize("name", ["hostile", "usual", "smallest"])
def test_the_page_never_scrolls_sideways(browser: Browser, pages: dict[str, Path], name: str, width: int):
    browser.open(pages[name], width=width)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(STICKING_OUT) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_background(browser: Browser, pages: dict[str, Path], dark: bool):
    browser.open(pages["hostile"], dark=dark)
    contrasts = browser.value(CONTRAST)
    assert {kind: value for kind, value in contrasts.items() if value < 4.5} == {}
    red, green, blue = browser.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(red, green, blue) < 60) is dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_picture_is_shown_in_the_scheme_of_the_reader(browser: Browser, pages: dict[str, Path], dark: bool):
    browser.open(pages["usual"], dark=dark)
    browser.call(
        "Runtime.evaluate", expression="Promise.all([...document.images].map(i => i.decode()))", awaitPromise=True
    )
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
    is_dark = "i.currentSrc === i.parentElement.querySelector('source').srcset"
    assert browser.value(f"[...document.images].map(i => {is_dark})") == [dark] * browser.value(
        "document.images.length"
    )


def test_no_name_runs_anything(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["hostile"])
    assert browser.value("document.title") == TITLE
    assert browser.value("document.querySelector('h1').textContent") == TITLE
    assert browser.value("document.scripts.length") == 0
    assert browser.value("getComputedStyle(document.body).display") == "block"
    assert browser.methods("Page.javascriptDialogOpening", "Runtime.exceptionThrown") == []


def test_the_browser_asks_for_nothing_but_the_page(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["hostile"])
    asked = {event["params"]["request"]["url"] for event in browser.methods("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("data:")} == {pages["hostile"].resolve().as_uri()}
    assert browser.methods("Log.entryAdded", "Runtime.consoleAPICalled") == []


def test_an_injected_script_would_be_blocked(browser: Browser, pages: dict[str, Path], tmp_path: Path):
    harmed = tmp_path / "harmed.html"
    harmed.write_text(
        pages["smallest"].read_text().replace("</main>", "<script>document.title = 'owned'</script></main>")
    )
    browser.open(harmed)
    assert browser.value("document.title") != "owned"
    assert "Content Security Policy" in browser.methods("Log.entryAdded")[0]["params"]["entry"]["text"]


def test_print_shows_all_rows_on_white(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["usual"], dark=True, media="print")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("[...document.querySelectorAll('.box')].every(b => b.scrollHeight <= b.clientHeight + 1)")
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
