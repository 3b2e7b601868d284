"""The picture of the drain as SVG: one file for light and dark, without scripts, in the colours of the comparison."""

import textwrap
from collections.abc import Iterator
from html import escape

from write_batcher.bench.cases import Case
from write_batcher.bench.drain_picture import Bar, CaseBars, DatabaseBars, DrainPicture, Side
from write_batcher.bench.drain_plan import Kind
from write_batcher.compare.report.formatting import format_figure, listed
from write_batcher.compare.report.theme import colours_css
from write_batcher.escaping import escaped

# Small, because it is scaled: on a phone its text is nearly as large as on a desktop.
WIDTH_PX = 480
SHOWN_PX = 640  # how wide a page shows it that says nothing about its size and has the room
MARGIN_PX = 16
BARS_LEFT_PX = 68
BAR_PX = 12
BAR_STEP_PX = 20
LABEL_GAP_PX = 6
TITLE_FONT_PX, FONT_PX, SMALL_FONT_PX = 18, 14, 12
CHAR_EM = 0.6  # width of a character by the size of its font: that of a wide font
MOST_FLOOR_CHARS = 30

STYLE = f"""
text {{ font: {FONT_PX}px sans-serif; fill: var(--ink); }}
.title {{ font-size: {TITLE_FONT_PX}px; font-weight: 600; }}
.strong {{ font-weight: 600; }}
.small {{ font-size: {SMALL_FONT_PX}px; font-weight: 400; fill: var(--muted); }}
.paper {{ fill: var(--paper); }}
.floor {{ fill: var(--direct); }}
.ours {{ fill: var(--queue); }}
.before {{ fill: none; stroke: var(--queue); stroke-width: 1.5; }}
.spread {{ stroke: var(--ink); stroke-width: 1.2; }}
.line {{ stroke: var(--grid); }}
"""

DATABASES: dict[Kind, str] = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
CASES = {
    Case.PLAIN: "three columns of text",
    Case.WIDE: "ten columns",
    Case.RECEIPTS: "a receipt for each row",
    Case.CODEC: "encrypted payloads",
}
SIDES: dict[Side, str] = {
    "floor": "the least code: no ledger, no checks, no receipts",
    "ours": "write-batcher: ledger, checks, receipts if asked for",
    "before": "write-batcher at commit ",
}
LEGEND = "/s: rows per second; µs: CPU time per row; line: slowest to fastest round"


class _Sheet:
    """Elements from top to bottom."""

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.y = float(MARGIN_PX)

    def text(self, text: str, *, style: str = "", x: float = MARGIN_PX, small: str = "", step: float = 18) -> None:
        """Add one line of text, with `small` behind it, and go down by `step`."""
        behind = f'<tspan class="small" dx="8">{_safe(small)}</tspan>' if small else ""
        self.elements.append(f'<text x="{x:g}" y="{self.y + step - 4:g}" class="{style}">{_safe(text)}{behind}</text>')
        self.y += step

    def paragraph(self, text: str, *, style: str, font_px: int, step: float) -> None:
        """Add text in as many lines as it needs."""
        for line in textwrap.wrap(escaped(text), int((WIDTH_PX - 2 * MARGIN_PX) / (0.9 * CHAR_EM * font_px))):
            self.text(line, style=style, step=step)

    def bar(self, side: Side, width: float) -> None:
        """Add a bar in the middle of the line that begins here, and stay there."""
        top = self.y + (BAR_STEP_PX - BAR_PX) / 2
        self.elements.append(
            f'<rect x="{BARS_LEFT_PX}" y="{top:g}" width="{max(width, 1):.1f}" height="{BAR_PX}" class="{side}"/>'
        )


def draw_drain(picture: DrainPicture) -> str:
    """Return the text of an SVG file."""
    sheet = _Sheet()
    title, finding = _title(picture), _finding(picture)
    sheet.paragraph(title, style="title", font_px=TITLE_FONT_PX, step=24)
    sheet.y += 4
    sheet.paragraph(finding, style="", font_px=FONT_PX, step=19)
    sheet.y += 10
    _draw_legend(sheet, picture)
    px_per_row = min(_px_per_row(bar) for case in picture.cases for one in case.databases for bar in one.bars)
    for case in picture.cases:
        _draw_case(sheet, case, px_per_row)
    sheet.y += 10
    for line in _footnotes(picture):
        sheet.paragraph(line, style="small", font_px=SMALL_FONT_PX, step=16)
    height = sheet.y + MARGIN_PX
    content = "\n".join(sheet.elements)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SHOWN_PX}" height="{height * SHOWN_PX / WIDTH_PX:.0f}" '
        f'viewBox="0 0 {WIDTH_PX} {height:g}" role="img" aria-labelledby="title finding">\n'
        f'<title id="title">{_safe(title)}</title>\n<desc id="finding">{_safe(finding)}</desc>\n'
        f"<style>\n{colours_css()}{STYLE}</style>\n"
        f'<rect width="{WIDTH_PX}" height="{height:g}" class="paper"/>\n{content}\n</svg>\n'
    )


def _safe(text: str) -> str:
    return escape(escaped(text))


def _title(picture: DrainPicture) -> str:
    written = [
        f"{format_figure(one.rows_per_s('ours'), 'count')}{'' if number else ' rows per second'} to "
        f"{DATABASES[one.database]}"
        for number, one in enumerate(picture.cases[0].databases)
    ]
    return f"The drain writes {listed(written)}"


def _finding(picture: DrainPicture) -> str:
    first = picture.cases[0]
    by_floor = [f"{bar.ratio:.2f}" for one in first.databases for bar in one.bars if bar.ratio is not None]
    text = f"That is {listed(by_floor)} of what the least code writes"
    by_before = {
        DATABASES[one.database]: f"{ours / before:.1f}"
        for one in first.databases
        if (before := one.rows_per_s("before")) and (ours := one.rows_per_s("ours"))
    }
    if by_before:
        text += f", and {listed(by_before.values())} times what it wrote before"
        if len(by_before) < len(first.databases):
            text += f" ({listed(by_before)})"
    return f"{text}."


def _draw_legend(sheet: _Sheet, picture: DrainPicture) -> None:
    for side, meaning in SIDES.items():
        if side == "before":
            if picture.before is None:
                continue
            meaning += f"{picture.before.commit[:7]} of {picture.before.date}"
        sheet.bar(side, 26)
        sheet.text(side, step=BAR_STEP_PX - 1)
        sheet.y -= BAR_STEP_PX - 1
        sheet.text(meaning, x=BARS_LEFT_PX + 34, style="small", step=BAR_STEP_PX - 1)
        sheet.y += 1
    sheet.text(LEGEND, style="small")


def _draw_case(sheet: _Sheet, case: CaseBars, px_per_row: float) -> None:
    sheet.y += 12
    sheet.elements.append(
        f'<line x1="{MARGIN_PX}" x2="{WIDTH_PX - MARGIN_PX}" y1="{sheet.y:g}" y2="{sheet.y:g}" class="line"/>'
    )
    sheet.y += 6
    small = f"{CASES[case.case]}, batches of {case.batch_size:,}"
    sheet.text(case.case[:1].upper() + case.case[1:], style="strong", small=small, step=20)
    for one in case.databases:
        _draw_database(sheet, one, px_per_row)


def _draw_database(sheet: _Sheet, one: DatabaseBars, px_per_row: float) -> None:
    sheet.y += 4
    floor = one.floor if len(one.floor) <= MOST_FLOOR_CHARS else f"{one.floor[: MOST_FLOOR_CHARS - 1]}…"
    sheet.text(DATABASES[one.database], small=f"the floor inserts by {floor}", step=19)
    for bar in one.bars:
        end = BARS_LEFT_PX + bar.high * px_per_row
        sheet.bar(bar.side, bar.rows_per_s * px_per_row)
        if bar.low < bar.high:
            middle = sheet.y + BAR_STEP_PX / 2
            start = BARS_LEFT_PX + bar.low * px_per_row
            sheet.elements.append(
                f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{middle:g}" y2="{middle:g}" class="spread"/>'
            )
        sheet.elements.append(_label(bar, end + LABEL_GAP_PX, sheet.y + BAR_STEP_PX - 5))
        sheet.text(bar.side, step=BAR_STEP_PX - 1)
        sheet.y += 1


def _parts(bar: Bar) -> Iterator[tuple[str, str, int]]:
    """What is written behind a bar: texts with class and size."""
    yield format_figure(bar.rows_per_s, "rate"), "strong", FONT_PX
    if bar.ratio is not None:
        yield f"{bar.ratio:.2f} × floor", "", FONT_PX  # noqa: RUF001 - times
    if bar.cpu_us_per_row is not None:
        yield f"{format_figure(bar.cpu_us_per_row, 'count')} µs", "small", SMALL_FONT_PX


def _label(bar: Bar, x: float, y: float) -> str:
    parts = [f'<tspan class="{style}" dx="{LABEL_GAP_PX}">{_safe(text)}</tspan>' for text, style, _ in _parts(bar)]
    return f'<text x="{x - LABEL_GAP_PX:.1f}" y="{y:g}">{"".join(parts)}</text>'


def _px_per_row(bar: Bar) -> float:
    """The largest scale at which the bar and its label fit."""
    label = sum(CHAR_EM * font_px * len(text) + LABEL_GAP_PX for text, _, font_px in _parts(bar))
    return (WIDTH_PX - MARGIN_PX - BARS_LEFT_PX - label) / bar.high


def _footnotes(picture: DrainPicture) -> Iterator[str]:
    few, many = picture.rounds
    if many == 1:
        rounds = "one round"
    else:
        rounds = f"median of {few} rounds" if few == many else f"median of {few} to {many} rounds"
    yield f"{picture.surroundings}; {picture.date}; {rounds}"
    if before := picture.before:
        yield f"before: commit {before.commit[:7]}, {before.date}, {before.machine}: {before.how}"
