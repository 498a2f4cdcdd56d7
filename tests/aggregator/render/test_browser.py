"""What pictures do in a real browser: pointer, keys, search, both themes, and nothing that names could smuggle in."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.fold import fold
from aggregator.render import html, svg
from tests.aggregator.render.samples import every_kind, hostile
from tests.support import browser as chromium
from tests.support.browser import Page

pytestmark = pytest.mark.skipif(not chromium.PROGRAM, reason="no browser (apt-get install chromium)")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """One browser for all tests here."""
    with chromium.browser() as tab:
        yield tab


def show(page: Page, path: Path, content: bytes, **options: bool) -> None:
    """Open the picture and wait for its script."""
    path.write_bytes(content)
    page.open(path, **options)  # type: ignore[arg-type]
    ready = "document.documentElement.dataset.ready || document.documentElement.classList.contains('live')"
    deadline = time.monotonic() + 20
    while not page.run(ready):
        assert time.monotonic() < deadline, page.complaints()
        time.sleep(0.02)


def status(page: Page) -> str:
    """What the picture says of the frame in question."""
    return str(page.run("document.getElementById('status').textContent"))


def test_html_answers_to_keys(page: Page, tmp_path: Path) -> None:
    """Search counts a share once, Enter goes to a match and zooms, arrows move, Escape resets."""
    show(page, tmp_path / "a.html", html.render(fold(every_kind(by=("comm",)))))
    page.press("/")
    for key in "square|work":
        page.press(key)
    assert page.run("document.getElementById('result').textContent") == "66.00% in 6 frames"
    page.press("Enter")
    assert status(page).startswith("work(int) — ")
    page.press("Enter")
    assert page.run("document.getElementById('reset').disabled") is False
    page.press("ArrowUp")
    assert status(page).startswith("square_[i] — ")
    page.press("ArrowDown")
    page.press("ArrowDown")
    assert not status(page).startswith("square_[i]")
    page.press("Escape")
    assert page.run("document.getElementById('search').value") == ""
    assert page.run("document.getElementById('reset').disabled") is True
    assert page.complaints() == []


def test_html_answers_to_the_pointer(page: Page, tmp_path: Path) -> None:
    """Hovering shows name, share and samples; a click zooms; the table leads to a function."""
    show(page, tmp_path / "a.html", html.render(fold(every_kind(by=("comm",)))))
    box = page.run("(({left, bottom}) => [left, bottom])(document.getElementById('canvas').getBoundingClientRect())")
    page.mouse("mouseMoved", box[0] + 200, box[1] - 9 - 18)
    tip = page.run("document.getElementById('tip').innerText")
    assert tip.splitlines() == ["app", "88.00% of all, 88 samples, 880 ms", "none in itself"]
    page.click(box[0] + 200, box[1] - 9 - 18)
    assert page.run("document.getElementById('reset').disabled") is False
    page.run("document.getElementById('table').click()")
    assert page.run("document.querySelector('tbody tr').innerText").split() == [
        "66.00%",
        "66",
        "66.00%",
        "66",
        "square_[i]",
    ]
    page.run("document.querySelector('tbody button').click()")
    assert page.run("document.getElementById('result').textContent") == "66.00% in 3 frames"
    page.run("document.getElementById('flip').click()")
    assert page.complaints() == []


def test_svg_answers_to_keys_and_pointer(page: Page, tmp_path: Path) -> None:
    """The same manners in the other format."""
    show(page, tmp_path / "a.svg", svg.render(fold(every_kind(by=("comm",)))))
    page.press("/")
    for key in "square|work":
        page.press(key)
    assert page.run("document.querySelector('.bar span').textContent") == "66.00% in 6 frames"
    page.press("Enter")
    assert status(page).startswith("work(int) — ")
    page.press("Enter")
    page.press("ArrowUp")
    assert status(page).startswith("square_[i] — ")
    width = "document.activeElement.querySelector('g:not(.off) > rect').getAttribute('width')"
    assert float(page.run(width)) > 1000
    page.press("Escape")
    assert page.run("document.querySelectorAll('.hit, .above').length") == 0
    frame = "[...document.querySelectorAll('#chart g g')].find((g) => g.frame.name === 'main')"
    x, y = page.run(f"(({{x, y}}) => [x, y])({frame}.getBoundingClientRect())")
    page.mouse("mouseMoved", x + 20, y + 5)
    assert page.run("document.getElementById('tip').textContent").startswith("main")
    page.click(x + 20, y + 5)
    assert page.run("document.querySelectorAll('.above').length") == 2
    assert page.complaints() == []


@pytest.mark.parametrize("form", ["html", "svg"])
def test_hostile_names_run_nothing(page: Page, tmp_path: Path, form: str) -> None:
    """No dialog, no error, no request, no foreign element: in the graph, its tooltips and its table."""
    render = {"html": html.render, "svg": svg.render}[form]
    show(page, tmp_path / f"h.{form}", render(fold(hostile())))
    for x in range(20, 1180, 40):
        page.mouse("mouseMoved", x, 120)
        page.mouse("mouseMoved", x, 140)
    assert page.run("document.querySelectorAll('img, b > *, tbody script').length") == 0
    assert page.complaints() == []


@pytest.mark.parametrize("form", ["html", "svg"])
def test_pictures_follow_the_theme(page: Page, tmp_path: Path, form: str) -> None:
    """Dark is dark: the two themes are different pictures, neither of them blank."""
    render = {"html": html.render, "svg": svg.render}[form]
    shots = []
    for dark in (False, True):
        show(page, tmp_path / f"t.{form}", render(fold(every_kind())), dark=dark)
        shots.append(page.screenshot())
    assert shots[0] != shots[1]
    assert all(len(shot) > 8000 for shot in shots)


def test_svg_shows_as_an_image(page: Page, tmp_path: Path) -> None:
    """In `<img>`, where no script runs, frames and names are there all the same."""
    (tmp_path / "p.svg").write_bytes(svg.render(fold(every_kind())))
    holder = tmp_path / "holder.html"
    holder.write_text("<img src='p.svg' onload='document.title = this.naturalWidth'>")
    page.open(holder)
    deadline = time.monotonic() + 20
    while not page.run("document.title"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert page.run("document.title") == "1200"
    assert len(page.screenshot()) > 8000
