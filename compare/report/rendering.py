"""A chart as a picture: SVG for the page, PNG for elsewhere, drawn without a network.

Colours are put in as they are on paper. In the SVG each becomes a CSS variable of the page, which knows the dark ones:
so no two roles may share a colour.
"""

import re
from dataclasses import dataclass
from typing import Any

import vl_convert
from altair.typing import ChartType
from markupsafe import escape

from write_batcher.compare.results import Contender

PNG_SCALE = 2
MARGIN_PX = 24  # around a PNG
TITLE_PX = 64  # above its chart
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'

INK, MUTED, GRID, PAPER, BAND = "#1c2733", "#5a6675", "#e2e7ec", "#ffffff", "#f6d9cb"
COLOURS = {
    Contender.DIRECT: "#8a9099",
    Contender.SIGNAL: "#c24a05",
    Contender.QUEUE: "#2f8fe0",
    Contender.QUEUE_COMPLETION: "#0b3f80",
}
"""Told apart also with protanopia, deuteranopia and tritanopia; where they are printed grey, names and dashes tell."""
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BAND: "band"} | {
    colour: str(contender) for contender, colour in COLOURS.items()
}

FONT_PX = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart as it was drawn: `inner` SVG in its colours on paper."""

    inner: str
    width: float
    height: float

    def inline(self, *, name: str, label: str) -> str:
        """An SVG element for the page. `name` makes its ids unique there, `label` says what it shows."""
        inner = re.sub(r'(id="|url\(#)(clip|gradient)', rf"\g<1>{name}-\g<2>", self.inner)
        for colour, variable in VARIABLES.items():
            inner = inner.replace(colour, f"var(--{variable})")
        box = f"0 0 {self.width:g} {self.height:g}"
        return f'<svg {NAMESPACE} viewBox="{box}" role="img" aria-label="{escape(label)}">{inner}</svg>'

    def png(self, title: str) -> bytes:
        """A picture on white, with its title, for where no page is."""
        width, height = self.width + 2 * MARGIN_PX, self.height + TITLE_PX + MARGIN_PX
        drawn = (
            f'<svg {NAMESPACE} width="{width:g}" height="{height:g}"><rect width="100%" height="100%" fill="{PAPER}"/>'
            f'<text x="{MARGIN_PX}" y="{TITLE_PX - 24}" font-family="sans-serif" font-size="18" font-weight="bold" '
            f'fill="{INK}">{escape(title)}</text>'
            f'<g transform="translate({MARGIN_PX},{TITLE_PX})">{self.inner}</g></svg>'
        )
        return bytes(vl_convert.svg_to_png(drawn, scale=PNG_SCALE))


def draw(chart: ChartType) -> Picture:
    """Draw a chart; nothing is fetched."""
    spec: dict[str, Any] = chart.to_dict() | {"background": None, "padding": 4, "config": _CONFIG}
    drawn = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    opening, rest = drawn.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', opening)
    assert box is not None  # noqa: S101 - Vega writes one
    return Picture(inner=rest.removesuffix("</svg>"), width=float(box[1]), height=float(box[2]))


_CONFIG: dict[str, Any] = {
    "aria": False,  # the SVG as a whole has a label, and the data stands below it as a table
    "font": "sans-serif",
    "view": {"stroke": None},
    "title": {
        "color": INK,
        "fontSize": FONT_PX + 1,
        "fontWeight": 600,
        "anchor": "start",
        "offset": 8,
        "frame": "group",
        "subtitleColor": MUTED,
        "subtitleFontSize": FONT_PX,
        "subtitlePadding": 4,
    },
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": FONT_PX,
        "titleFontSize": FONT_PX,
        "titleFontWeight": "normal",
        "gridColor": GRID,
        "domainColor": GRID,
        "tickColor": GRID,
        "titlePadding": 8,
        "labelPadding": 5,
    },
    "legend": {
        "labelColor": INK,
        "labelFontSize": FONT_PX,
        "title": None,
        "orient": "top",
        "direction": "horizontal",
        "symbolSize": 320,
        "symbolStrokeWidth": 2.5,
        "offset": 14,
    },
}
