"""Sentences on what went wrong: broken promises, and any other harm to writes and callers."""

from collections.abc import Sequence

from write_batcher.compare.report.figures import Figures, finite
from write_batcher.compare.report.formatting import SCENARIOS, counted, listed
from write_batcher.compare.report.measures import HARMS
from write_batcher.compare.results import BROKEN_PROMISES, Contender, Run, Scenario

NOUNS = {
    "failed": ("workflow",),
    "failed_good": ("good caller",),
    "failed_written": ("caller whose row is there", "callers whose rows are there"),
    "lost": ("row",),
    "duplicates": ("row",),
}
VERBS = {"lost": "lost", "duplicates": "duplicated"}  # of all others: failed


def describe_harm(figures: Figures, scenario: Scenario, contender: Contender, database: str | None = None) -> str:
    """Return what a contender did in a scenario, as in `failed 120 workflows and lost 3 rows`."""
    names = HARMS.get(scenario, BROKEN_PROMISES)
    totals = {name: figures.total(scenario, name, contender, database) for name in names}
    told = [f"{VERBS.get(name, 'failed')} {counted(total, *NOUNS[name])}" for name, total in totals.items() if total]
    return listed(told) if told else "broke its promise"


def describe_broken_promises(figures: Figures, contender: Contender) -> str:
    """Return what a contender did in all scenarios; empty when it kept all promises.

    As in `lost 3 rows and duplicated 1 row (crash, sqlite, rounds 1 and 2)`.
    """
    told = []
    for scenario in figures.scenarios():
        for database in figures.databases(scenario):
            runs = [run for run in figures.runs_of(scenario, contender, database) if any(_broken_promises(run))]
            if not runs:
                continue
            lost, duplicated, failed = map(sum, zip(*map(_broken_promises, runs), strict=True))
            parts = [f"lost {counted(lost, 'row')}"] if lost else []
            parts += [f"duplicated {counted(duplicated, 'row')}"] if duplicated else []
            parts += [f"failed {counted(failed, 'caller')} that had written"] if failed else []
            rounds = f"round{'s' if len(runs) > 1 else ''} {listed(str(run.round) for run in runs)}"
            told.append(f"{listed(parts)} ({SCENARIOS[scenario].lower()}, {database}, {rounds})")
    return "; ".join(told)


def _broken_promises(run: Run) -> list[float]:
    return [max(0, finite(run.figures.get(name)) or 0) for name in BROKEN_PROMISES]


def describe_kept_promises(figures: Figures, contenders: Sequence[Contender]) -> str | None:
    """Return a sentence on contenders that kept all promises, with how much was counted: the claim rests on it.

    None when nothing was counted.
    """
    counted_runs = [
        run
        for run in figures.runs
        if run.contender in contenders and any(finite(run.figures.get(name)) is not None for name in BROKEN_PROMISES)
    ]
    if not counted_runs:
        return None
    names = [contender for contender in Contender if any(run.contender is contender for run in counted_runs)]
    rows = sum(_rows(run) for run in counted_runs)
    return (
        f"{listed(names)} lost and duplicated nothing: {counted(rows, 'row')} in "
        f"{counted(len(counted_runs), 'run')} were counted."
    )


def _rows(run: Run) -> float:
    found = (finite(run.figures.get(name)) for name in ("rows", "writes"))  # growth calls them `writes`
    return next((rows for rows in found if rows is not None), 0)
