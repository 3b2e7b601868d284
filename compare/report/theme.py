"""The look of the charts: colours and type.

A chart is rendered with the colours of the light scheme. On the page each of them becomes the CSS variable of its role,
which `colours.css` also defines for the dark scheme. So no two roles may share a colour.
"""

from importlib.resources import files
from typing import Any

from write_batcher.compare.results import Contender

INK, MUTED, GRID, PAPER, BAND = "#1c2733", "#5a6675", "#e2e7ec", "#ffffff", "#f6d9cb"
# Distinct for people with protanopia, deuteranopia and tritanopia, too. In print without colour, names and dashes tell.
COLOURS = {
    Contender.DIRECT: "#8a9099",
    Contender.DIRECT_POOLED: "#4d545c",
    Contender.SIGNAL: "#c24a05",
    Contender.QUEUE: "#2f8fe0",
    Contender.QUEUE_COMPLETION: "#0b3f80",
    Contender.QUEUE_PACED: "#0a7d55",
}
CSS_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BAND: "band"} | {
    colour: str(contender) for contender, colour in COLOURS.items()
}

FONT_PX = 12

VEGA_CONFIG: dict[str, Any] = {
    "aria": False,  # the SVG as a whole has a label, and its data stands below it as a table
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


def colours_css() -> str:
    """Return the CSS variables of the roles, for the light and the dark scheme: for a page, or inside an SVG."""
    return files("write_batcher.compare.report").joinpath("colours.css").read_text(encoding="utf-8")
