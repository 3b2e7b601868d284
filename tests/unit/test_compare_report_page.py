"""The page and its pictures: self-contained, safe with foreign text, drawn from any subset of runs."""

import json
import re
import struct
from dataclasses import asdict, replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.sample_results import results_of, run, sample_results
from write_batcher.compare.report.page import load_results, write_report
from write_batcher.compare.report.summary import BEST_MARK, print_summary, summarize
from write_batcher.compare.report.theme import CSS_VARIABLES
from write_batcher.compare.results import FILE_NAME, Contender, Results, Scenario
from write_batcher.errors import ConfigurationError

CHARTS = ["actions", "ceiling", "crash", "database", "growth", "idle", "latency", "poison", "pressure"]
LOADING = {"src", "srcset", "data", "action", "poster", "background", "xlink:href"}


def with_points(*points: object, scenario: Scenario) -> Results:
    return results_of(run(scenario, Contender.QUEUE, samples={"points": list(points)}))


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.all if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(sample_results(), folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_page_has_every_chart_for_wide_and_for_narrow_windows(page: str) -> None:
    svgs = Elements(page).named("svg")
    assert len(svgs) == 2 * len(CHARTS)
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in svgs)


def test_page_loads_nothing(page: str) -> None:
    elements = Elements(page)
    assert elements.named("script") == []
    assert elements.named("img") == []
    assert [link for link in elements.named("link") if not (link["href"] or "").startswith("data:")] == []
    assert [attributes for _, attributes in elements.all if LOADING & attributes.keys()] == []
    assert re.findall(r"@import|url\((?!#)", page) == []
    assert {link["href"] for link in elements.named("a")} == {"https://docs.temporal.io/cloud/pricing"}


def test_page_says_when_it_was_measured_and_with_what(page: str) -> None:
    assert "Started 2026-03-04 05:06 UTC; it took 31 minutes for 108 runs." in page
    assert "a processor of the sample" in page


def test_ids_are_unique_and_references_have_a_target(page: str) -> None:
    ids = [attributes["id"] for _, attributes in Elements(page).all if "id" in attributes]
    assert sorted(ids, key=str) == sorted(set(ids), key=str)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_charts_take_every_colour_from_a_css_variable(page: str) -> None:
    charts = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert set(re.findall(r"var\(--([\w-]+)\)", charts)) == set(CSS_VARIABLES.values()) - {"paper"}
    assert re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]+|black|white)"', charts) == []
    assert all(page.count(f"--{name}: #") == 2 for name in CSS_VARIABLES.values())


def test_tables_have_captions_and_scopes(page: str) -> None:
    elements = Elements(page)
    assert len(elements.named("caption")) == len(elements.named("table")) == 1 + len(CHARTS)
    assert all("scope" in heading for heading in elements.named("th"))


def test_every_chart_has_a_finding_and_its_data(page: str) -> None:
    elements = Elements(page)
    assert page.count('class="finding"') == len(CHARTS)
    assert len(elements.named("details")) == len(CHARTS)


def test_pictures_are_pngs_of_double_resolution(folder: Path) -> None:
    pictures = sorted(folder.glob("*.png"))
    assert [picture.stem for picture in pictures] == CHARTS
    for picture in pictures:
        start = picture.read_bytes()[:24]
        width, height = struct.unpack(">II", start[16:24])
        assert start[:8] == b"\x89PNG\r\n\x1a\n"
        assert 1400 < width < 1700
        assert 250 < height < 2600


def test_foreign_text_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script><img src=x onerror=alert(1)>'
    results = sample_results(rounds=1, databases=("sqlite", evil), scenarios=[Scenario.LOAD])
    results = replace(
        results, machine={evil: evil}, runs=[replace(one, notes=[evil]) for one in results.runs], started_at=evil
    )
    elements = Elements(write_report(results, tmp_path).read_text())
    assert elements.named("script") == []
    assert elements.named("img") == []


@pytest.mark.parametrize(
    "results",
    [
        results_of(),
        *(with_points({}, None, {"s": 1}, scenario=scenario) for scenario in Scenario),
        with_points({"s": 3, "rows": 1}, {"s": 3, "rows": 2}, scenario=Scenario.CRASH),
        *(sample_results(rounds=1, scenarios=[scenario], databases=["sqlite"]) for scenario in Scenario),
        sample_results(rounds=2, contenders=[Contender.QUEUE], databases=["postgresql"]),
        results_of(*(run(scenario, contender) for scenario in Scenario for contender in Contender)),
        results_of(
            *(run(scenario, Contender.QUEUE, samples={"points": [{}, None, {"s": 1}]}) for scenario in Scenario)
        ),
        results_of(run(Scenario.LOAD, Contender.QUEUE, workflows=0, rows=0, samples={"latency_ms": [5, None, "x"]})),
        results_of(
            run(Scenario.CRASH, Contender.QUEUE, samples={"points": [{"s": 3, "rows": 1}, {"s": 3, "rows": 2}]})
        ),
        results_of(*(run(Scenario.IDLE, contender, actions_per_day=0) for contender in Contender)),
    ],
)
def test_any_subset_can_be_drawn(results: Results, tmp_path: Path) -> None:
    page = write_report(results, tmp_path).read_text()
    assert "NaN" not in page
    assert "How it was measured" in page


def test_alarm_comes_before_everything_else(tmp_path: Path) -> None:
    results = results_of(run(Scenario.CRASH, Contender.QUEUE, lost=3), run(Scenario.CRASH, Contender.SIGNAL, lost=0))
    page = write_report(results, tmp_path).read_text()
    assert 'role="alert"' in page
    assert page.index("queue broke its promise: lost 3 rows") < page.index("<h1")


def test_curve_ends_below_100_percent_when_callers_got_no_receipt(page: str) -> None:
    assert re.search(r"direct on postgresql ends at 8\d(\.\d)?%", page)


def test_summary_marks_the_best_and_the_harm() -> None:
    columns, sections = summarize(sample_results())
    assert columns == list(Contender)
    load = next(section for section in sections if section.title == "Load, postgresql")
    rows = {row.label: row.cells for row in load.rows}
    assert [cell.is_best for cell in rows["Temporal actions per write"]] == [False, False, False, False, True, True]
    assert [cell.is_bad for cell in rows["Workflows failed"]] == [True, False, False, False, False, False]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_summary_is_printed(*, is_terminal: bool) -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=120, color_system=None)
    print_summary(console, sample_results())
    text = output.getvalue()
    assert "Warning: direct duplicated 6 rows" in text
    assert "When many workflows write at once, choose queue-paced." in " ".join(text.split())
    assert f"48.1/s {BEST_MARK}" not in text
    assert ("┃" in text) is is_terminal


def test_summary_of_nothing_is_printed() -> None:
    output = StringIO()
    print_summary(Console(file=output), results_of())
    assert "No design can be recommended" in output.getvalue()


def test_results_are_read_back(tmp_path: Path) -> None:
    results = sample_results(rounds=1)
    results.save(tmp_path)
    assert load_results(tmp_path) == results


def test_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"{tmp_path}/results.json does not exist: give the folder"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"runs": None},
        {"runs": [1]},
        {"runs": [{}]},
        {"machine": []},
        {"seconds": "long"},
        {"unknown": 1},
    ],
)
def test_broken_results_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(asdict(results_of()) | change))
    with pytest.raises(ConfigurationError, match=r"results\.json is broken \(.*write-batcher compare"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"scenario": "x"}, {"figures": []}, {"samples": {"points": 1}}, {"notes": "one"}, {"round": "first"}, {"x": 1}],
)
def test_broken_runs_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    results = asdict(results_of(run(Scenario.IDLE, Contender.QUEUE)))
    results["runs"][0] |= change
    (tmp_path / FILE_NAME).write_text(json.dumps(results))
    with pytest.raises(ConfigurationError, match=r"results\.json is broken"):
        load_results(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe"])
def test_file_without_results_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"results\.json is broken"):
        load_results(tmp_path)


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(ConfigurationError, match=r"cannot be written .*choose a folder"):
        write_report(results_of(), in_the_way)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ConfigurationError, match=r"report\.html cannot be written"):
        write_report(results_of(), tmp_path)
