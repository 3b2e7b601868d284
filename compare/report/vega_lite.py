"""The kinds of charts, bars, lines and steps, as Vega-Lite specifications in the look of the report."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from altair.typing import ChartType

from write_batcher.compare.report.theme import BAND, COLOURS, FONT_PX, INK, MUTED
from write_batcher.compare.results import Contender

WIDE_PX = 720  # as rendered; the page scales it
NARROW_PX = 340  # for phones
DASHES = {
    Contender.DIRECT: [2, 3],
    Contender.DIRECT_POOLED: [8, 3],
    Contender.SIGNAL: [1, 0],
    Contender.QUEUE: [6, 4],
    Contender.QUEUE_COMPLETION: [1, 0],
    Contender.QUEUE_PACED: [1, 0],
}
HEADROOM = 1.12  # above a level, for its label
LABELS_PX = 128  # for the names of contenders left of bars
AXIS_PX = 64  # for a vertical axis
BARS_LEFT_PX = LABELS_PX + 12
GAP_PX = 24
LOG_TICKS = 5
BAR_STEP_PX = 27
DIGIT_PX = 6.6  # width of a digit at FONT_PX, roughly

NUMBER_LABEL = "format(datum.value, abs(datum.value) >= 10000 ? '~s' : ',~g')"

Chart = ChartType
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPanel:
    """One measure of several contenders."""

    title: str
    database: str
    """Empty when there is only one."""
    unit: str
    rows: Rows
    """Each with `contender value low high label`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis of a chart."""

    title: str
    is_log: bool = False
    label: str | None = None
    """A Vega expression of `datum.value`; None for plain numbers."""
    domain: tuple[float, float] | None = None
    """Lowest and highest value; None to derive them from the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePanel:
    """Lines of several contenders."""

    title: str
    rows: Rows
    """Each with `contender x y`."""
    level: tuple[float, str] | None = None
    """A horizontal line and its label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPanel:
    """One contender over time."""

    title: str
    contender: Contender
    rows: Rows
    """Each with `x y`."""
    band: tuple[float, float] | None
    """Start and end of a shaded time."""


def bar_chart(grid: Sequence[Sequence[BarPanel]], width: int) -> Chart:
    """Return rows of panels, side by side if there is room. The panels of a row share one scale."""
    return _concat(
        [[_bars(panel, row, plot, first, width) for panel, plot, first in _side_by_side(row, width)] for row in grid],
        width,
    )


def line_chart(panels: Sequence[LinePanel], x: Axis, y: Axis, width: int, left_px: int = AXIS_PX) -> Chart:
    """Return panels that share one scale, side by side if there is room. `left_px` is kept free left of each."""
    x, y = _with_domain(x, panels, "x"), _with_domain(y, panels, "y")
    names = _in_order(row["contender"] for panel in panels for row in panel.rows)
    columns = len(panels) if width == WIDE_PX else 1
    plot = (width - left_px * columns - GAP_PX * (columns - 1)) // columns
    drawn = [_lines(panel, x, y, plot, 260 if width == WIDE_PX else 220, names, width) for panel in panels]
    return _concat([drawn], width)


def step_chart(panels: Sequence[StepPanel], x: Axis, y: Axis, width: int) -> Chart:
    """Return panels that share one scale, one below the other, so that their times can be compared."""
    x, y = _with_domain(x, panels, "x"), _with_domain(y, panels, "y")
    return _concat([[_steps(panel, x, y, width - 70, panel is panels[-1])] for panel in panels], width, spacing=14)


def stacked(*charts: Chart) -> Chart:
    """Return charts of different kinds, one below the other. Each keeps its own legend."""
    scale = alt.ScaleResolveMap(color="independent", strokeDash="independent")
    return alt.vconcat(*charts, spacing=GAP_PX + 8, resolve=alt.Resolve(scale=scale))


def _concat(grid: Sequence[Sequence[Chart]], width: int, spacing: int = GAP_PX) -> Chart:
    rows: list[Any] = [alt.hconcat(*row, spacing=GAP_PX) if len(row) > 1 else row[0] for row in grid]
    if width == NARROW_PX:
        rows = [panel for row in grid for panel in row]
    return rows[0] if len(rows) == 1 else alt.vconcat(*rows, spacing=spacing)


def _side_by_side(row: Sequence[BarPanel], width: int) -> list[tuple[BarPanel, int, bool]]:
    if width == NARROW_PX:
        return [(panel, width - BARS_LEFT_PX, True) for panel in row]
    plot = (width - BARS_LEFT_PX - GAP_PX * (len(row) - 1)) // len(row)
    return [(panel, plot, panel is row[0]) for panel in row]


def _title(text: str, width: int, database: str = "") -> alt.Title:
    # On phones it starts at the left edge, or it would not fit.
    return alt.Title(text, subtitle=database or alt.Undefined, frame="group" if width == WIDE_PX else "bounds")


def _in_order(contenders: Iterable[Contender]) -> list[Contender]:
    present = set(contenders)
    return [contender for contender in Contender if contender in present]


def _data(rows: Rows) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _colour(names: Sequence[Contender], legend: Any = None) -> alt.Color:
    scale = alt.Scale(domain=[str(name) for name in names], range=[COLOURS[name] for name in names])
    return alt.Color("contender:N", scale=scale, legend=legend)


def _bars(panel: BarPanel, row: Sequence[BarPanel], plot: int, with_names: bool, width: int) -> Chart:
    bars = [bar for one in row for bar in one.rows]
    names = _in_order(bar["contender"] for bar in bars)
    most = max(max(bar["value"], bar["high"]) for bar in bars) or 1
    room = min(DIGIT_PX * max(len(bar["label"]) for bar in bars) + 14, plot * 0.75)
    scale = alt.Scale(domain=[0, most * plot / (plot - room)], nice=False)
    # Beyond the greatest value the axis is only room for the labels of the bars: no ticks there.
    step = 1 if all(float(bar["value"]).is_integer() for bar in bars) else alt.Undefined
    x_axis = alt.Axis(title=panel.unit, tickCount=4, grid=False, domain=False, labelExpr=NUMBER_LABEL, tickMinStep=step)
    y_axis = alt.Axis(title=None, domain=False, ticks=False, labelColor=INK, minExtent=LABELS_PX, maxExtent=LABELS_PX)
    y = alt.Y("contender:N", sort=[str(name) for name in names], axis=y_axis if with_names else None)
    base = alt.Chart(_data(panel.rows)).encode(y=y)
    bar = base.mark_bar(size=15, cornerRadiusEnd=2).encode(
        x=alt.X("value:Q", scale=scale, axis=x_axis), color=_colour(names)
    )
    spread = base.mark_rule(color=INK, strokeWidth=1.2).encode(x="low:Q", x2="high:Q")
    label = base.mark_text(align="left", dx=7, fontSize=FONT_PX, color=INK).encode(x="high:Q", text="label:N")
    title = _title(panel.title, width, panel.database)
    return alt.layer(bar, spread, label, width=plot, height=BAR_STEP_PX * len(names), title=title)


def _with_domain(axis: Axis, panels: Sequence[LinePanel] | Sequence[StepPanel], field: str) -> Axis:
    if axis.domain:
        return axis
    values = [row[field] for panel in panels for row in panel.rows]
    if axis.is_log:
        return Axis(title=axis.title, is_log=True, label=axis.label, domain=(0.9 * min(values), 1.1 * max(values)))
    low = min(0, *values)
    levels = [panel.level[0] * HEADROOM for panel in panels if isinstance(panel, LinePanel) and panel.level]
    highest = max([*values, *levels]) if field == "y" else max(values)
    return Axis(title=axis.title, label=axis.label, domain=(low, highest or 1))


def _channel(channel: Any, field: str, axis: Axis, **more: Any) -> Any:
    assert axis.domain is not None  # noqa: S101 - set by `_with_domain`
    scale = alt.Scale(type="log" if axis.is_log else "linear", domain=list(axis.domain), nice=not axis.is_log)
    if axis.label:
        more["labelExpr"] = axis.label
    if axis.is_log:
        more["values"] = _decades(*axis.domain)
    drawn = alt.Axis(**{"title": axis.title or None, "tickCount": 5} | more)
    return channel(f"{field}:Q", scale=scale, axis=drawn)


def _decades(low: float, high: float) -> list[float]:
    """Return as many of 1, 2, 5, 10, 20 ... as fit on the axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps_of_decade in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps_of_decade]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= LOG_TICKS:
            break
    return ticks or [low, high]


def _lines(panel: LinePanel, x: Axis, y: Axis, plot: int, height: int, names: Sequence[Contender], width: int) -> Chart:
    dash_scale = alt.Scale(domain=[str(name) for name in names], range=[DASHES[name] for name in names])
    legend = alt.Legend(columns=len(names) if width == WIDE_PX else 2, symbolType="stroke")
    line = (
        alt.Chart(_data(panel.rows))
        .mark_line(strokeWidth=2.2, clip=True)
        .encode(
            x=_channel(alt.X, "x", x, grid=False),
            y=_channel(alt.Y, "y", y, domain=False, ticks=False),
            color=_colour(names, legend),
            strokeDash=alt.StrokeDash("contender:N", scale=dash_scale, legend=legend),
            order="x:Q",
        )
    )
    layers: list[alt.Chart] = [line]
    if panel.level:
        value, label = panel.level
        level = alt.Chart(_data([{"y": value, "label": label}]))
        layers.append(level.mark_rule(color=MUTED, strokeDash=[3, 3]).encode(y="y:Q"))
        text = level.mark_text(align="left", baseline="bottom", dx=4, dy=-4, fontSize=FONT_PX - 1, color=MUTED)
        layers.append(text.encode(y="y:Q", x=alt.value(0), text="label:N"))
    return alt.layer(*layers, width=plot, height=height, title=_title(panel.title, width))


def _steps(panel: StepPanel, x: Axis, y: Axis, plot: int, with_times: bool) -> Chart:
    colour = COLOURS[panel.contender]
    x = x if with_times else Axis(title="", domain=x.domain)
    times = _channel(alt.X, "x", x, grid=False, labels=with_times, ticks=with_times)
    layers = []
    if panel.band:
        start, end = panel.band
        band = alt.Chart(_data([{"start": start, "end": end}])).mark_rect(color=BAND)
        layers.append(band.encode(x=alt.X("start:Q"), x2="end:Q"))
    area = alt.Chart(_data(panel.rows)).mark_area(
        interpolate="step-after", color=colour, fillOpacity=0.35, line={"color": colour, "strokeWidth": 1.6}, clip=True
    )
    layers.append(area.encode(x=times, y=_channel(alt.Y, "y", y, domain=False, ticks=False, tickCount=3)))
    return alt.layer(*layers, width=plot, height=72, title=panel.title)
