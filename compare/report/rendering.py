"""Renders a chart as SVG for the page and as PNG for everything else, without a network."""

import re
from dataclasses import dataclass
from typing import Any

import vl_convert
from markupsafe import escape

from write_batcher.compare.report.theme import CSS_VARIABLES, INK, PAPER, VEGA_CONFIG
from write_batcher.compare.report.vega_lite import Chart

PNG_SCALE = 2
MARGIN_PX = 24  # around a PNG
TITLE_PX = 64  # above the chart in a PNG
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedChart:
    """A chart in the colours of the light scheme."""

    content: str
    """What is inside the `svg` element."""
    width: float
    height: float

    def inline_svg(self, *, name: str, label: str) -> str:
        """Return an SVG element for the page. `name` makes its ids unique there; `label` says what it shows."""
        content = re.sub(r'(id="|url\(#)(clip|gradient)', rf"\g<1>{name}-\g<2>", self.content)
        for colour, variable in CSS_VARIABLES.items():
            content = content.replace(colour, f"var(--{variable})")
        box = f"0 0 {self.width:g} {self.height:g}"
        return f'<svg {NAMESPACE} viewBox="{box}" role="img" aria-label="{escape(label)}">{content}</svg>'

    def png(self, title: str) -> bytes:
        """Return a PNG on white with a title, for use outside the page."""
        width, height = self.width + 2 * MARGIN_PX, self.height + TITLE_PX + MARGIN_PX
        svg = (
            f'<svg {NAMESPACE} width="{width:g}" height="{height:g}"><rect width="100%" height="100%" fill="{PAPER}"/>'
            f'<text x="{MARGIN_PX}" y="{TITLE_PX - 24}" font-family="sans-serif" font-size="18" font-weight="bold" '
            f'fill="{INK}">{escape(title)}</text>'
            f'<g transform="translate({MARGIN_PX},{TITLE_PX})">{self.content}</g></svg>'
        )
        return bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE))


def render(chart: Chart) -> RenderedChart:
    """Render a chart; nothing is fetched."""
    spec: dict[str, Any] = chart.to_dict() | {"background": None, "padding": 4, "config": VEGA_CONFIG}
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    opening, rest = svg.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', opening)
    assert box is not None  # noqa: S101 - Vega always writes one
    return RenderedChart(content=rest.removesuffix("</svg>"), width=float(box[1]), height=float(box[2]))
