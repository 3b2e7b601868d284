"""Puts verdict, summary, charts and method on one page that needs nothing else, and the charts into pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from write_batcher import ConfigurationError
from write_batcher.compare.report import vega_lite as charts
from write_batcher.compare.report.charts import drawings
from write_batcher.compare.report.charts.chart_section import Drawing
from write_batcher.compare.report.figures import ALIKE_WITHIN, Figures, number
from write_batcher.compare.report.formatting import ABSENT, CONTENDERS, SCENARIOS, figure
from write_batcher.compare.report.prices import LIST_PRICE, Price
from write_batcher.compare.report.rendering import Picture, draw
from write_batcher.compare.report.summary import summarize
from write_batcher.compare.report.verdict import judge
from write_batcher.compare.results import FILE_NAME, Contender, Results, Run

PAGE_NAME = "report.html"
RUN_PARTS = {"figures": dict, "samples": dict, "notes": list}
JSON_NAMES = {str: "text", int: "whole number", dict: "object", list: "list"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """What runs have to say, the same of several rounds once."""

    where: str
    text: str
    rounds: int


def load_results(folder: Path) -> Results:
    """The comparison in `folder`. Raises ConfigurationError when there is none, or when it cannot be read."""
    path = folder / FILE_NAME
    try:
        results = Results.load(folder)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} is not there: give the folder of a comparison, or make one with `write-batcher compare`"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is broken ({error}): measure again with `write-batcher compare`, or give another folder"
        ) from error
    if wrong := _wrong_form(results):
        raise ConfigurationError(f"{path} is broken ({wrong}): measure again with `write-batcher compare`")
    return results


def write_report(results: Results, folder: Path, *, price: Price = LIST_PRICE) -> Path:
    """Write `report.html` and a PNG of every chart into `folder`; returns the path of the page.

    `price` is what a million Temporal actions cost. Raises ConfigurationError when `folder` cannot be written to.
    """
    drawn = [(drawing, _draw(drawing)) for drawing in drawings(Figures(results), price)]
    pictures = {f"{drawing.key}.png": sizes["wide"].png(drawing.title) for drawing, sizes in drawn}
    page = _render(results, drawn, price)
    path = folder / PAGE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (folder / name).write_bytes(picture)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or folder} cannot be written ({error.strerror}): choose a folder that you may write to"
        ) from error
    return path


def _render(results: Results, drawn: list[tuple[Drawing, dict[str, Picture]]], price: Price) -> str:
    """The page. Everything is escaped but the charts: notes may hold what a database or a producer said."""
    here = files("write_batcher.compare.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["names"] = _unbroken
    columns, sections = summarize(results, price)
    figures = Figures(results)
    return environment.from_string(here.joinpath("template.html").read_text(encoding="utf-8")).render(
        style=Markup(here.joinpath("style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        results=results,
        started=_moment(results.started_at),
        took=_duration(results.seconds),
        verdict=judge(results, price),
        columns=columns,
        sections=sections,
        drawings=[(drawing, _inlined(drawing, sizes)) for drawing, sizes in drawn],
        price=price,
        contenders=[(name, CONTENDERS[name]) for name in figures.contenders()],
        facts=_facts(results),
        notes=_notes(results),
        file_name=FILE_NAME,
        alike=figure(ALIKE_WITHIN, "percent"),
    )


def _unbroken(text: str) -> Markup:
    """`text`, escaped, with names that no line may break at their hyphen."""
    name = Contender.QUEUE_COMPLETION
    return Markup(str(escape(text)).replace(name, f'<span class="name">{name}</span>'))  # noqa: S704 - escaped


def _draw(drawing: Drawing) -> dict[str, Picture]:
    """A chart for wide windows and for paper, and one for telephones; the page shows one of them."""
    sizes = {"wide": charts.WIDE, "narrow": charts.NARROW}
    return {size: draw(drawing.chart(width)) for size, width in sizes.items()}


def _inlined(drawing: Drawing, sizes: Mapping[str, Picture]) -> dict[str, Markup]:
    label = f"{drawing.title}. {drawing.sees}".strip()
    return {
        size: Markup(picture.inline(name=f"{drawing.key}-{size}", label=label))  # noqa: S704 - escaped
        for size, picture in sizes.items()
    }


def _facts(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    groups: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("Machine", results.machine),
        ("Versions", results.versions),
        ("Settings", results.settings),
    )
    return [(title, [(name, _text(value)) for name, value in facts.items()]) for title, facts in groups if facts]


def _moment(text: str) -> str:
    """An ISO time as people write it; anything else as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return text


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
    """What the types of a file that somebody edited do not hold to."""
    holders: list[tuple[str, object, dict[str, type]]] = [
        ("the comparison", results, {"started_at": str, "machine": dict, "versions": dict, "settings": dict}),
        *((_named(run), run, {"database": str, "round": int, **RUN_PARTS}) for run in results.runs),
    ]
    for where, holder, types in holders:
        for name, wanted in types.items():
            if not isinstance(getattr(holder, name), wanted):
                return f"`{name}` of {where} is no {JSON_NAMES[wanted]}"
    if number(results.seconds) is None:
        return "`seconds` of the comparison is no number"
    for run in results.runs:
        if not all(isinstance(values, list) for values in run.samples.values()):
            return f"`samples` of {_named(run)} holds something else than lists"
    return None


def _named(run: Run) -> str:
    return f"{run.contender} in {run.scenario}, {run.database}, round {run.round}"
