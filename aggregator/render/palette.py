"""Colours of frames: the kind says the hue, the package a shade of it, the theme how light. Always the same for a name.

Colours are given in OKLCH (Björn Ottosson's Oklab in polar form), whose lightness is what eyes see, and turned into
sRGB. Kinds differ in lightness as well as in hue, so that they stay apart for eyes that do not tell red from green
(hues keep to the yellow-blue axis and to purple), and names carry the kind as a suffix besides. Text on every fill is
legible: contrast is 4.5 or more, which a test computes (WCAG 2, success criterion 1.4.3).
"""

import math
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache

from aggregator.naming import REMEMBERED, FrameKind, package_of

SHADES = 6
"""Shades of one kind. More could not be told apart."""


@dataclass(frozen=True, slots=True)
class Tone:
    """Fill of a kind: lightness in the light and the dark theme, chroma, hue in degrees and how far shades spread."""

    light: float
    dark: float
    chroma: float
    hue: float
    spread: float


TONES = {
    FrameKind.NATIVE: Tone(0.815, 0.755, 0.125, 64, 34),
    FrameKind.INLINED: Tone(0.915, 0.855, 0.085, 98, 16),
    FrameKind.KERNEL: Tone(0.760, 0.690, 0.095, 248, 26),
    FrameKind.JIT: Tone(0.850, 0.780, 0.090, 178, 26),
    FrameKind.INTERPRETER: Tone(0.735, 0.665, 0.115, 312, 24),
    FrameKind.UNKNOWN: Tone(0.850, 0.640, 0.006, 260, 0),
    FrameKind.TRUNCATED: Tone(0.790, 0.600, 0.008, 260, 0),
    FrameKind.PROCESS: Tone(0.905, 0.425, 0.018, 262, 0),
    FrameKind.LABEL: Tone(0.860, 0.365, 0.032, 272, 0),
}
LETTERS = {
    FrameKind.NATIVE: "n",
    FrameKind.INLINED: "i",
    FrameKind.KERNEL: "k",
    FrameKind.JIT: "j",
    FrameKind.INTERPRETER: "p",
    FrameKind.UNKNOWN: "u",
    FrameKind.TRUNCATED: "t",
    FrameKind.PROCESS: "c",
    FrameKind.LABEL: "l",
}
TITLES = {
    FrameKind.NATIVE: "native",
    FrameKind.INLINED: "inlined",
    FrameKind.KERNEL: "kernel",
    FrameKind.JIT: "JIT",
    FrameKind.INTERPRETER: "interpreter",
    FrameKind.UNKNOWN: "no name",
    FrameKind.TRUNCATED: "truncated",
    FrameKind.PROCESS: "process",
    FrameKind.LABEL: "label",
}
INK = {"light": "#16181d", "dark": "#0d0f12"}
"""Text on frames."""
PALE_INK = "#eef0f4"
"""Text on the dark theme's processes and labels, which are darker than their text."""
DIFF_STEPS = 7
"""Steps from no change to the greatest, each way."""


@lru_cache(REMEMBERED)
def color_class(name: str, kind: FrameKind) -> str:
    """The class of a frame: the kind's letter and the number of the shade."""
    if TONES[kind].spread == 0:
        return LETTERS[kind] + "0"
    return f"{LETTERS[kind]}{zlib.crc32(package_of(name).encode()) % SHADES}"


def key_class(kind: FrameKind) -> str:
    """The class of the shade that stands for the kind in a legend."""
    return LETTERS[kind] + str(SHADES // 2 if TONES[kind].spread else 0)


@cache
def fills(theme: str) -> dict[str, str]:
    """The fill of each class in a theme, `light` or `dark`, as #rrggbb."""
    colors = {}
    for kind, tone in TONES.items():
        base = tone.light if theme == "light" else tone.dark
        for shade in range(SHADES if tone.spread else 1):
            # Shades alternate in lightness, so that neighbours in hue are not neighbours in looks.
            step = shade / (SHADES - 1) - 0.5 if tone.spread else 0.0
            lightness = base + (0.022 if shade % 2 else -0.022) * (tone.spread > 0)
            colors[f"{LETTERS[kind]}{shade}"] = oklch(lightness, tone.chroma, tone.hue + step * tone.spread)
    return colors


@cache
def diff_fills(theme: str) -> dict[str, str]:
    """Fills of a difference: d0 (much less) over d7 (the same) to d14 (much more)."""
    colors = {}
    for step in range(-DIFF_STEPS, DIFF_STEPS + 1):
        share = abs(step) / DIFF_STEPS
        plain = 0.93 if theme == "light" else 0.78
        lightness = plain - (0.24 if theme == "light" else 0.12) * share
        hue = 27 if step > 0 else 252
        colors[f"d{step + DIFF_STEPS}"] = oklch(lightness, 0.005 + 0.15 * share, hue)
    return colors


def oklch(lightness: float, chroma: float, hue: float) -> str:
    """#rrggbb of an OKLCH colour; chroma is reduced until sRGB has it."""
    while True:
        channels = _linear(lightness, chroma, math.radians(hue))
        if all(-0.0005 <= channel <= 1.0005 for channel in channels) or chroma <= 0:
            return "#" + "".join(f"{round(255 * _gamma(min(max(channel, 0.0), 1.0))):02x}" for channel in channels)
        chroma -= 0.002


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two #rrggbb colours, 1 to 21 (WCAG 2)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _linear(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """OKLCH to linear sRGB: Ottosson's matrices."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(channel: float) -> float:
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055


def _luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
