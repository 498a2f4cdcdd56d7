"""Colours: legible, apart, and always the same."""

import itertools

import pytest

from aggregator.naming import FrameKind
from aggregator.render.palette import INK, LETTERS, PALE_INK, color_class, contrast, diff_fills, fills, oklch


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_legible_on_every_fill(theme: str) -> None:
    """Contrast of a frame and its text is 4.5 or more."""
    pale = {LETTERS[FrameKind.PROCESS], LETTERS[FrameKind.LABEL]} if theme == "dark" else set()
    for name, color in (fills(theme) | diff_fills(theme)).items():
        ink = PALE_INK if name[0] in pale else INK[theme]
        assert contrast(color, ink) >= 4.5, (theme, name, color)


def _deuteranope(color: str) -> list[float]:
    """What red-green blind eyes see (Viénot, Brettel, Mollon 1999), in linear light."""
    red, green, blue = ((int(color[at : at + 2], 16) / 255) ** 2.2 for at in (1, 3, 5))
    yellow = 0.29275 * red + 0.70725 * green
    return [yellow, yellow, -0.02234 * red + 0.02234 * green + blue]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_kinds_are_apart_without_red_and_green(theme: str) -> None:
    """No shade of one kind looks like a shade of another to eyes without red-green vision."""
    kinds = [LETTERS[kind] for kind in (FrameKind.NATIVE, FrameKind.INLINED, FrameKind.KERNEL, FrameKind.JIT)]
    for one, other in itertools.combinations(kinds, 2):
        seen = [[_deuteranope(c) for n, c in fills(theme).items() if n[0] == kind] for kind in (one, other)]
        nearest = min(sum(abs(a - b) for a, b in zip(x, y, strict=True)) for x in seen[0] for y in seen[1])
        assert nearest > 0.05, (theme, one, other, nearest)


def test_a_package_has_one_color() -> None:
    """Functions of one namespace share a shade; the kind is the letter."""
    assert color_class("std::sort", FrameKind.NATIVE) == color_class("std::map::find", FrameKind.NATIVE)
    assert color_class("std::sort", FrameKind.INLINED)[0] == "i"
    assert color_class("web", FrameKind.PROCESS) == "c0"


def test_known_colors() -> None:
    """Black, white and a mid grey come out as they should."""
    assert (oklch(0, 0, 0), oklch(1, 0, 0)) == ("#000000", "#ffffff")
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
