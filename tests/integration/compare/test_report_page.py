"""The report in a browser, and the command that writes it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.sample_results import sample_results
from write_batcher.compare.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",  # a container has no user namespaces
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CHARTS = 9
SMALLEST_TEXT_PX = 10.5


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(sample_results(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(
    params=[
        (400, "light"),
        pytest.param((400, "dark"), marks=pytest.mark.thorough),
        pytest.param((1600, "light"), marks=pytest.mark.thorough),
        (1600, "dark"),
    ],
    ids=str,
)
def opened(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[tuple[Page, list[str]]]:
    """The report in a window, and a list of what the browser fetches or reports."""
    width: int
    scheme: Literal["light", "dark"]
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    happened: list[str] = []
    page.on("request", lambda one: happened.append(one.url))
    page.on("console", lambda message: happened.append(message.text))
    page.on("pageerror", lambda error: happened.append(str(error)))
    page.goto(report.as_uri())
    yield page, happened
    page.close()


def test_page_fetches_only_itself_and_has_no_errors(opened: tuple[Page, list[str]], report: Path) -> None:
    _, happened = opened
    assert [one for one in happened if not one.startswith("data:")] == [report.as_uri()]


def test_every_chart_is_visible_and_legible(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    shown = [svg for svg in page.locator("svg").all() if svg.is_visible()]
    assert len(shown) == CHARTS
    for svg in shown:
        box = svg.bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["height"] > 100
        assert svg.evaluate(SMALLEST_TEXT) >= SMALLEST_TEXT_PX


SMALLEST_TEXT = """svg => Math.min(...[...svg.querySelectorAll("text")].map(
    text => parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width
))"""


def test_text_of_charts_stays_inside_the_chart(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    outside = """() => [...document.querySelectorAll("svg")].filter(svg => svg.checkVisibility()).flatMap(
        svg => [...svg.querySelectorAll("text")]
            .filter(text => text.getBoundingClientRect().right > svg.getBoundingClientRect().right + 1)
            .map(text => text.textContent)
    )"""
    assert page.evaluate(outside) == []


def test_page_does_not_scroll_sideways_with_all_data_open(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] <= widths[1]


def test_text_has_enough_contrast_in_both_schemes(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    colours = page.evaluate("""() => {
        const of = element => getComputedStyle(element)
        return [of(document.body).backgroundColor, of(document.body).color,
                ...[...document.querySelectorAll("svg text")].map(text => of(text).fill)]
    }""")
    paper, *inks = (_luminance(colour) for colour in colours)
    assert min((max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) for ink in inks) >= 4.5


def _luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` as WCAG defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_print_is_white_even_with_a_dark_screen(browser: Browser, report: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(report.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len([svg for svg in page.locator("svg").all() if svg.is_visible()]) == CHARTS
    page.close()


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "write_batcher.cli.app", "compare", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_command_writes_the_report_and_prints_the_summary(tmp_path: Path) -> None:
    sample_results(rounds=1, databases=["sqlite"]).save(tmp_path)
    ended = command("report", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "Load, sqlite: Temporal actions per write: direct 1" in ended.stdout
    assert ended.stdout.splitlines()[-1] == f"report: {tmp_path}/report.html"
    assert (tmp_path / "latency.png").exists()


def test_command_without_chart_packages_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['altair'] = None; sys.argv[1:] = ['compare', 'report', '.']; "
        "from write_batcher.cli.app import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 2
    assert ended.stderr == (
        "write-batcher: The comparison needs altair: install it with "
        "`pip install 'write-batcher[compare,embedded,postgresql]'`.\n"
    )


def test_command_without_results_says_what_to_do(tmp_path: Path) -> None:
    ended = command("report", str(tmp_path))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        f"write-batcher: {tmp_path}/results.json does not exist: give the folder of a comparison, "
        "or make one with `write-batcher compare`.\n"
    )
