"""Writes the report: verdict, summary, charts and method on one self-contained page, and the charts as PNGs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from write_batcher import ConfigurationError
from write_batcher.compare.report.charts import chart_sections
from write_batcher.compare.report.charts.chart_section import ChartSection
from write_batcher.compare.report.figures import EQUAL_WITHIN, Figures, finite
from write_batcher.compare.report.formatting import ABSENT, CONTENDERS, SCENARIOS, format_figure
from write_batcher.compare.report.prices import LIST_PRICE, Price
from write_batcher.compare.report.rendering import RenderedChart, render
from write_batcher.compare.report.summary import summarize
from write_batcher.compare.report.theme import colours_css
from write_batcher.compare.report.vega_lite import NARROW_PX, WIDE_PX
from write_batcher.compare.report.verdict import judge
from write_batcher.compare.results import FILE_NAME, Contender, Results, Run

PAGE_NAME = "report.html"
RUN_TYPES = {"database": str, "round": int, "figures": dict, "samples": dict, "notes": list}
JSON_NAMES = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """A note of one or more runs; equal notes of several rounds are one."""

    where: str
    text: str
    rounds: int
    """How many rounds have it."""


def load_results(folder: Path) -> Results:
    """Read the comparison in `folder`. Raises `ConfigurationError` when it is missing, unreadable or broken."""
    path = folder / FILE_NAME
    try:
        results = Results.load(folder)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} does not exist: give the folder of a comparison, or make one with `write-batcher compare`."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is broken ({error}): measure again with `write-batcher compare`, or give another folder."
        ) from error
    if wrong := _wrong_form(results):
        raise ConfigurationError(f"{path} is broken ({wrong}): measure again with `write-batcher compare`.")
    return results


def write_report(results: Results, folder: Path, *, price: Price = LIST_PRICE) -> Path:
    """Write `report.html` and a PNG of every chart into `folder`, and return the path of the page.

    `price` is what a million Temporal actions cost. Raises `ConfigurationError` when `folder` cannot be written to.
    """
    charts = [(section, _rendered(section)) for section in chart_sections(Figures(results), price)]
    pngs = {f"{section.key}.png": sizes["wide"].png(section.title) for section, sizes in charts}
    page = _page(results, charts, price)
    path = folder / PAGE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, png in pngs.items():
            (folder / name).write_bytes(png)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or folder} cannot be written ({error.strerror}): choose a folder that you may write to."
        ) from error
    return path


def _page(results: Results, charts: list[tuple[ChartSection, dict[str, RenderedChart]]], price: Price) -> str:
    """Return the page. Everything except the charts is escaped: notes may quote a database or a producer."""
    here = files("write_batcher.compare.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["names"] = _without_line_breaks_in_names
    columns, sections = summarize(results, price)
    figures = Figures(results)
    return environment.from_string(here.joinpath("template.html").read_text(encoding="utf-8")).render(
        style=Markup(colours_css() + here.joinpath("style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own
        results=results,
        started=_moment(results.started_at),
        took=_duration(results.seconds),
        verdict=judge(results, price),
        columns=columns,
        sections=sections,
        charts=[(section, _inline_svgs(section, sizes)) for section, sizes in charts],
        price=price,
        contenders=[(name, CONTENDERS[name]) for name in figures.contenders()],
        facts=_facts(results),
        notes=_notes(results),
        file_name=FILE_NAME,
        equal_within=format_figure(EQUAL_WITHIN, "percent"),
    )


def _without_line_breaks_in_names(text: str) -> Markup:
    name = Contender.QUEUE_COMPLETION
    return Markup(str(escape(text)).replace(name, f'<span class="name">{name}</span>'))  # noqa: S704 - escaped


def _rendered(section: ChartSection) -> dict[str, RenderedChart]:
    """Return the chart for wide windows and paper, and for phones; the page shows one of them."""
    sizes = {"wide": WIDE_PX, "narrow": NARROW_PX}
    return {size: render(section.chart(width)) for size, width in sizes.items()}


def _inline_svgs(section: ChartSection, sizes: Mapping[str, RenderedChart]) -> dict[str, Markup]:
    label = f"{section.title}. {section.finding}".strip()
    return {
        size: Markup(chart.inline_svg(name=f"{section.key}-{size}", label=label))  # noqa: S704 - escaped
        for size, chart in sizes.items()
    }


def _facts(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    groups: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("Machine", results.machine),
        ("Versions", results.versions),
        ("Settings", results.settings),
    )
    return [(title, [(name, _text(value)) for name, value in facts.items()]) for title, facts in groups if facts]


def _moment(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return text  # not an ISO time: the file was edited


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} seconds" if seconds < 120 else f"{seconds / 60:,.0f} minutes"


def _text(value: object) -> str:
    if value is None:
        return ABSENT
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _notes(results: Results) -> list[_Note]:
    rounds: dict[tuple[str, str], int] = {}
    for run in results.runs:
        for text in run.notes:
            key = (f"{SCENARIOS[run.scenario]}, {run.contender}, {run.database}", str(text))
            rounds[key] = rounds.get(key, 0) + 1
    return [_Note(where=where, text=text, rounds=count) for (where, text), count in rounds.items()]


def _wrong_form(results: Results) -> str | None:
    """Return what has the wrong type, in a file that was edited by hand."""
    holders: list[tuple[str, object, dict[str, type]]] = [
        ("the comparison", results, {"started_at": str, "machine": dict, "versions": dict, "settings": dict}),
        *((_named(run), run, RUN_TYPES) for run in results.runs),
    ]
    for where, holder, types in holders:
        for name, wanted in types.items():
            if not isinstance(getattr(holder, name), wanted):
                return f"`{name}` of {where} is not {JSON_NAMES[wanted]}"
    if finite(results.seconds) is None:
        return "`seconds` of the comparison is not a number"
    for run in results.runs:
        if not all(isinstance(values, list) for values in run.samples.values()):
            return f"`samples` of {_named(run)} holds a value that is not a list"
    return None


def _named(run: Run) -> str:
    return f"{run.contender} in {run.scenario}, {run.database}, round {run.round}"
