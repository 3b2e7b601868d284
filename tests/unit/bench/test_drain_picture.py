"""The picture of the drain: what is drawn from saved results, for whom it is legible, and what is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.command import run_command
from tests.support.drain_results import MACHINE, drain_results
from write_batcher.bench.before_figures import EXAMPLE, BeforeFigures, load_before
from write_batcher.bench.bench_results import BenchResults, load_results
from write_batcher.bench.drain_picture import DrainPicture, load_picture
from write_batcher.bench.drain_svg import BARS_LEFT_PX, WIDTH_PX, draw_drain
from write_batcher.cli.bench_picture_commands import picture_command
from write_batcher.errors import ConfigurationError

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</text><script>alert("1")</script>&\x00\x1b[31m\ud800'


@pytest.fixture
def before(tmp_path: Path) -> BeforeFigures:
    file = tmp_path / "before.json"
    file.write_text(EXAMPLE)
    return load_before(file)


def picture_of(folder: Path, *results: BenchResults, before: BeforeFigures | None = None) -> DrainPicture:
    for number, one in enumerate(results):
        inside = folder / f"{number}"  # as two batch sizes of one case must be
        inside.mkdir()
        one.save(inside)
    return load_picture(folder, before)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314


def test_cases_and_databases_are_drawn_in_their_order(tmp_path: Path) -> None:
    cases = ("codec", "receipts", "wide", "plain", "one-bad")
    found = picture_of(
        tmp_path,
        *(drain_results(case, databases=("postgresql", "sqlite")) for case in cases),
        drain_results(batch_size=1_000),
    )
    drawn = [(case.case, case.batch_size) for case in found.cases]
    assert drawn == [("plain", 100), ("plain", 1_000), ("wide", 100), ("receipts", 100), ("codec", 100)]
    assert {tuple(one.database for one in case.databases) for case in found.cases} == {("sqlite", "postgresql")}


def test_bars_have_rates_ratio_and_cpu_time(tmp_path: Path, before: BeforeFigures) -> None:
    written = texts(draw_drain(picture_of(tmp_path, drain_results(), before=before)))
    assert written.count("20,000/s20 µs") == 2
    assert written.count("5,000/s0.25 × floor83 µs") == 2  # noqa: RUF001 - times
    assert written.count("1,000/s200 µs") == 1  # `before` knows SQLite only
    assert "Plainthree columns of text, batches of 100" in written


def test_title_and_finding_say_what_to_see(tmp_path: Path, before: BeforeFigures) -> None:
    root = ElementTree.fromstring(draw_drain(picture_of(tmp_path, drain_results(), before=before)))  # noqa: S314
    assert root.findtext(f"{SVG}title") == "The drain writes 5,000 rows per second to SQLite and 5,000 to PostgreSQL"
    assert root.findtext(f"{SVG}desc") == (
        "That is 0.25 and 0.25 of what the least code writes, and 5.0 times what it wrote before (SQLite)."
    )


def test_footnote_names_machine_versions_date_rounds_and_before(tmp_path: Path, before: BeforeFigures) -> None:
    written = " ".join(texts(draw_drain(picture_of(tmp_path, drain_results(), before=before))))
    for part in (
        "2 cores (Some), Linux, fsync 0.20 ms, Python 3.11, Valkey 9.1, SQLite 3.40, write-batcher 1.2.3;",
        "2026-01-02; median of 2 rounds",
        "before: commit 0d56c08, 2026-11-27, 2 cores: Median of three rounds.",
    ):
        assert part in written


def test_before_stands_only_beside_plain_of_its_batch_size(tmp_path: Path, before: BeforeFigures) -> None:
    found = picture_of(tmp_path, drain_results("wide"), drain_results(batch_size=1_000), before=before)
    assert found.before is None
    assert "before" not in draw_drain(found).partition("</style>")[2]


def test_bars_and_spreads_end_left_of_their_labels(tmp_path: Path) -> None:
    root = ElementTree.fromstring(draw_drain(picture_of(tmp_path, drain_results())))  # noqa: S314
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("height") == "12"][2:]  # after those of the legend
    spreads = [line for line in root.iter(f"{SVG}line") if line.get("class") == "spread"]
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert [bar.get("class") for bar in bars] == ["floor", "ours"] * 2
    assert widths[1] / widths[0] == pytest.approx(0.25, abs=0.01)
    labels = [float(text.get("x", "0")) for text in root.iter(f"{SVG}text") if text.get("class") is None]
    assert len(labels) == len(bars)
    for bar, x in zip(widths, labels, strict=True):
        assert BARS_LEFT_PX + bar <= x < WIDTH_PX
    assert [float(line.get("x2", "0")) for line in spreads] == labels[1::2]


def test_colours_are_defined_for_light_and_dark(tmp_path: Path) -> None:
    svg = draw_drain(picture_of(tmp_path, drain_results()))
    light, dark = svg.split("(prefers-color-scheme: dark)")
    used = set(re.findall(r"var\(--([\w-]+)\)", svg))
    assert {"ink", "paper", "queue", "direct"} <= used
    for scheme in (light, dark):
        assert used <= set(re.findall(r"--([\w-]+): #", scheme))


def test_picture_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    svg = draw_drain(picture_of(tmp_path, drain_results()))
    assert not re.search(r"url\(|@import|href|<script|foreignObject|<image", svg)
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]


def test_foreign_text_is_escaped(tmp_path: Path, before: BeforeFigures) -> None:
    hostile = drain_results(floor=HOSTILE, machine={**MACHINE, "cpu": HOSTILE})
    svg = draw_drain(picture_of(tmp_path, hostile, before=replace(before, machine=HOSTILE, how=HOSTILE)))
    root = ElementTree.fromstring(svg.encode())  # noqa: S314
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        *("svg", "title", "desc", "style", "rect", "line", "text", "tspan")
    }
    assert r"\x00\x1b[31m" in "".join(texts(svg))


def test_one_database_and_one_round_are_enough(tmp_path: Path) -> None:
    one = replace(drain_results("wide", databases=("sqlite",)), rounds=1)
    svg = draw_drain(picture_of(tmp_path, one))
    assert "The drain writes 5,000 rows per second to SQLite<" in svg
    assert "one round" in " ".join(texts(svg))


def test_results_are_read_as_they_were_saved(tmp_path: Path) -> None:
    results = drain_results()
    assert load_results(results.save(tmp_path)) == results


def test_folder_that_is_missing_or_has_no_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere does not exist: give one with results, or measure with"):
        load_picture(tmp_path / "nowhere")
    drain_results("one-bad").save(tmp_path)
    with pytest.raises(ConfigurationError, match=r"holds no results of bench drain .* plain, wide, .*: give another"):
        load_picture(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-5], "no JSON"),
        (lambda text: "[]", "have version None, not 3"),
        (lambda text: text.replace('"version": 3', '"version": 1'), "have version 1, not 3"),
        (lambda text: text.replace('"databases"', '"bases"'), "groups: field required"),
        (lambda text: text.replace('"batch_size"', '"size"'), "no batch_size"),
        (lambda text: text.replace('"cores"', '"core"'), "no 'cores' of the machine"),
        (lambda text: text.replace('"max": 6000', '"max": NaN'), "rows_per_s of ours"),
        (lambda text: text.replace('"floor": "COPY"', '"floor": "none"'), "rows_per_s of floor"),
    ],
)
def test_broken_results_are_refused_with_the_cure(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    file = drain_results().save(tmp_path)
    file.write_text(change(file.read_text()))
    with pytest.raises(ConfigurationError, match=rf"{re.escape(str(tmp_path))}.*{message}.*: measure"):
        load_picture(tmp_path)


def test_results_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"both of plain with batches of 100: give the folder of one"):
        picture_of(tmp_path, drain_results(), drain_results())
    drain_results("wide", machine={**MACHINE, "cores": "64"}).save(tmp_path / "1")
    (tmp_path / "1/drain-plain.json").unlink()
    with pytest.raises(ConfigurationError, match="different machines or versions"):
        load_picture(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit": "main"}, "commit: string should match"),
        ({"date": "yesterday"}, "date: "),
        ({"rows_per_s": {}}, "rows_per_s: "),
        ({"rows_per_s": {"oracle": 1}}, r"rows_per_s\.oracle"),
        ({"cpu_us_per_row": {"sqlite": -1}}, r"cpu_us_per_row\.sqlite: input should be greater than 0"),
        ({"how": ""}, "how: "),
    ],
)
def test_malformed_figures_of_before_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    file.write_text(json.dumps(json.loads(EXAMPLE) | change))
    with pytest.raises(ConfigurationError, match=rf"before\.json are broken \({message}.*: write it like \{{"):
        load_before(file)


async def test_command_draws_into_the_folder_of_the_results(tmp_path: Path) -> None:
    drain_results().save(tmp_path)
    (tmp_path / "before.json").write_text(EXAMPLE)
    picture = tmp_path / "drain.svg"
    answer = await run_command("bench", "picture", str(tmp_path), "--before", str(tmp_path / "before.json"))
    assert answer == (0, f"picture: {picture}\n", "")
    assert "0d56c08" in picture.read_text("utf-8")


async def test_command_ends_with_status_2_and_one_sentence(tmp_path: Path) -> None:
    status, output, errors = await run_command("bench", "picture", "nowhere", folder=tmp_path)
    assert (status, output) == (2, "")
    assert errors.startswith("write-batcher: Folder nowhere does not exist: give one")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("out", "before", "message"),
    [
        ("drain.png", None, r"Option --out .*drain\.png is no SVG file: give a name that ends with \.svg\."),
        ("no/drain.svg", None, r"drain\.svg cannot be written \(No such file or directory\): choose another --out\."),
        ("drain.svg", "no.json", r"Figures .*no\.json cannot be read \(No such file or directory\): write it like"),
    ],
)
def test_wrong_option_is_refused_with_the_cure(out: str, before: str | None, message: str, tmp_path: Path) -> None:
    drain_results().save(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        picture_command(tmp_path, out=tmp_path / out, before=tmp_path / before if before else None)
