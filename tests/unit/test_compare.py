"""The pure parts of a comparison: its order, its figures, and what the command makes of its arguments."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from write_batcher.cli.compare_commands import (
    ADDRESSES,
    TargetDatabase,
    ignored_variables,
    parse_names,
    parse_scenarios,
    settings_inheriting,
)
from write_batcher.cli.compare_view import SHOWN_FIGURES
from write_batcher.compare.action_counter import parse_actions, read_settled
from write_batcher.compare.audit import CallerOutcome, audit
from write_batcher.compare.contenders.design import Order
from write_batcher.compare.database_meter import DatabaseMeter, DatabaseUse
from write_batcher.compare.histories import HistorySize
from write_batcher.compare.report.formatting import SCENARIOS
from write_batcher.compare.report.measures import MEASURES
from write_batcher.compare.resource_usage import Baseline, ResourceUsage
from write_batcher.compare.results import Contender, Scenario
from write_batcher.compare.scale import Scale, left_out, steps
from write_batcher.compare.scenarios import MEASURE_OF, settings_of
from write_batcher.compare.scenarios.crash import recovery_s
from write_batcher.compare.scenarios.load import load_figures
from write_batcher.config import load_settings
from write_batcher.errors import ConfigurationError

METRICS = """\
# HELP action ...
# TYPE action counter
action{action_type="command_StartTimer",namespace="default",operation="RespondWorkflowTaskCompleted"} 10
action{action_type="grpc_SignalWorkflowExecution",namespace="default",operation="with \\"quotes\\" and }"} 1.2e+01
action{action_type="grpc_StartWorkflowExecution",namespace="temporal_system",operation="Start"} 7
action_other{namespace="default"} 99
"""


def outcome(number: int, *, failure: tuple[str, str] | None = None, cents: int = 1) -> CallerOutcome:
    order = Order(workflow_id=f"caller-{number}", item="tea", cents=cents)
    return CallerOutcome(order=order, failure=failure, latency_ms=None if failure else 10 * number)


def test_only_actions_of_the_namespace_are_counted() -> None:
    assert parse_actions(METRICS, "default") == 22
    assert parse_actions("", "default") == 0


async def test_counter_is_read_until_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("write_batcher.compare.action_counter.READ_INTERVAL", timedelta(milliseconds=1))
    answers = iter([1, 5, 9, 9, 30])

    async def read() -> int:
        return next(answers)

    assert await read_settled(read) == 9


def test_order_of_contenders_differs_by_round_and_follows_from_the_seed() -> None:
    scale = Scale(scenarios=(Scenario.LOAD,), databases=("sqlite",), rounds=8, seed=7)
    rounds = [[step.contenders[0] for step in steps(scale) if step.round == number] for number in range(8)]
    wanted = sorted(set(Contender) - {Contender.DIRECT_POOLED})
    assert all(sorted(contenders) == wanted for contenders in rounds)
    assert len({tuple(contenders) for contenders in rounds}) > 1
    assert steps(scale) == steps(Scale(scenarios=(Scenario.LOAD,), databases=("sqlite",), rounds=8, seed=7))
    assert steps(scale) != steps(Scale(scenarios=(Scenario.LOAD,), databases=("sqlite",), rounds=8, seed=8))


def test_steps_leave_out_what_shows_nothing_and_measure_idle_at_once() -> None:
    found = steps(Scale())
    of = {scenario: [step for step in found if step.scenario is scenario] for scenario in Scenario}
    on_both = (Scenario.PRESSURE, Scenario.LOAD)
    for scenario, its_steps in of.items():
        wanted = {"sqlite", "postgresql"} if scenario in on_both else {"sqlite"}
        assert {step.database for step in its_steps} == wanted
    assert {step.contenders for step in of[Scenario.CEILING]} == {(Contender.SIGNAL,), (Contender.QUEUE,)}
    assert [len(step.contenders) for step in of[Scenario.IDLE]] == [4]
    assert len(left_out(Scale())) == 7
    assert len(left_out(Scale(scenarios=(Scenario.LOAD,)))) == 1


def test_meter_counts_transactions_not_savepoints_and_starts_again(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'target.db'}", poolclass=NullPool)
    meter = DatabaseMeter()
    try:
        with engine.begin() as connection, connection.begin_nested():
            connection.execute(text("SELECT 1"))
        with pytest.raises(OperationalError), engine.begin() as connection:
            connection.execute(text("SELECT * FROM nowhere"))
        assert meter.take() == DatabaseUse(transactions=2, connections_opened=2, connections_peak=1, errors=1)
        with engine.connect():
            assert meter.take() == DatabaseUse(connections_opened=1, connections_peak=1)
            assert meter.take() == DatabaseUse(connections_peak=1)
    finally:
        meter.stop()


def test_audit_tells_lost_duplicated_and_failed_writes_apart() -> None:
    outcomes = [
        outcome(1),
        outcome(2),
        outcome(3),
        outcome(4, failure=("WriteRejected", "check"), cents=-1),
        outcome(5, failure=("Timeout", "late")),
    ]
    found = audit(outcomes, {"caller-1": 1, "caller-2": 3, "caller-5": 1})
    assert found.figures() == {"completed": 3, "failed": 2, "rows": 5, "duplicates": 2, "lost": 1, "failed_written": 1}
    assert (found.failed_good, found.failed_written, found.written) == (1, 1, 3)
    assert found.notes() == [
        "1 callers failed with WriteRejected: check",
        "1 callers failed with Timeout: late",
        "1 callers failed although their row is in the database",
        "2 rows in the database are duplicates",
        "1 callers were told that their row was written, but it is missing",
    ]


def test_load_figures_are_those_of_the_write_alone() -> None:
    found = audit([outcome(1), outcome(2)], {"caller-1": 1, "caller-2": 1})
    usage = ResourceUsage(
        database=DatabaseUse(transactions=1, connections_opened=0, connections_peak=1, errors=0),
        batcher_history=HistorySize(events=4, bytes=400),
        actions=12,
        server_cpu_s=0.5,
        worker_cpu_s=0.25,
    )
    histories = HistorySize(events=58, bytes=9000)
    baseline = Baseline(actions=3.0, events=17.0, bytes=2000.0)
    assert load_figures(found, usage, histories, baseline, workflows=2, seconds=4.0) == {
        "workflows": 2,
        "completed": 2,
        "failed": 0,
        "rows": 2,
        "duplicates": 0,
        "lost": 0,
        "failed_written": 0,
        "seconds": 4.0,
        "writes_per_s": 0.5,
        "transactions": 1,
        "connections_opened": 0,
        "connections_peak": 1,
        "database_errors": 0,
        "events_per_write": 12.0,
        "bytes_per_write": 2500.0,
        "actions_per_write": 3.0,
        "server_cpu_ms_per_write": 250.0,
        "worker_cpu_ms_per_write": 125.0,
    }


def test_load_figures_of_existing_servers_are_none_where_they_do_not_tell() -> None:
    found = audit([outcome(1, failure=("Timeout", "late"))], {})
    usage = ResourceUsage(
        database=DatabaseUse(), batcher_history=HistorySize(), actions=None, server_cpu_s=None, worker_cpu_s=1.0
    )
    baseline = Baseline(actions=None, events=17.0, bytes=2000.0)
    told = load_figures(found, usage, HistorySize(events=17), baseline, workflows=1, seconds=1.0)
    assert told["actions_per_write"] is None
    assert told["server_cpu_ms_per_write"] is None
    assert told["events_per_write"] is None  # nothing was written


def test_every_scenario_is_measured_titled_summed_up_and_shown() -> None:
    everywhere = [set(MEASURE_OF), set(SCENARIOS), {one.scenario for one in MEASURES}, set(SHOWN_FIGURES)]
    assert everywhere == [set(Scenario)] * 4


def test_recovery_is_until_the_first_row_after_the_kill() -> None:
    points = [{"s": 0.0, "rows": 0}, {"s": 1.0, "rows": 40}, {"s": 2.09, "rows": 50}, {"s": 6.5, "rows": 60}]
    assert recovery_s(points, killed_s=2.0, rows_at_kill=50) == 4.5
    assert recovery_s(points[:3], killed_s=2.0, rows_at_kill=50) is None


def test_crash_has_several_batches_however_few_callers() -> None:
    settings = load_settings()
    assert settings_of(Scenario.CRASH, settings, Scale(workflows=100)).max_items == 10
    assert settings_of(Scenario.CRASH, settings, Scale(workflows=5)).max_items == 1
    assert settings_of(Scenario.LOAD, settings, Scale(workflows=5)) == settings


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        (Scenario, "lood", "no scenario 'lood': choose from pressure, load"),
        (Contender, "que", "no contender 'que': choose from direct, direct-pooled, signal"),
        (TargetDatabase, "", "no database '': choose from sqlite, postgresql"),
    ],
)
def test_unknown_name_is_refused_with_the_known_ones(kind: type[Scenario], name: str, wanted: str) -> None:
    with pytest.raises(ConfigurationError, match=wanted):
        parse_names(kind, [name], kind.__name__.lower().replace("targetdatabase", "database"))


def test_names_are_chosen_once_in_the_order_given() -> None:
    assert parse_names(Contender, ["queue", " direct", "queue"], "contender") == (Contender.QUEUE, Contender.DIRECT)


def test_all_stands_for_all_scenarios_whatever_else_is_named() -> None:
    assert parse_scenarios(["all"]) == parse_scenarios(["load", "all"]) == tuple(Scenario)
    assert parse_scenarios(["load"]) == (Scenario.LOAD,)
    with pytest.raises(ConfigurationError, match="no scenario 'lood'"):
        parse_scenarios(["all", "lood"])


def test_environment_sets_only_the_addresses_of_existing_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITE_BATCHER_TABLES", "orders:upsert")
    monkeypatch.setenv("WRITE_BATCHER_MAX_BACKLOG", "many")
    monkeypatch.setenv("WRITE_BATCHER_DATABASE_URL", "sqlite+aiosqlite:///mine.db")
    nothing: frozenset[str] = frozenset()
    settings = settings_inheriting(nothing, max_items=7)
    assert (settings.tables, settings.max_backlog, settings.max_items) == (("main_writes",), 100_000, 7)
    assert settings.database_url != "sqlite+aiosqlite:///mine.db"
    assert ignored_variables(nothing) == [
        "WRITE_BATCHER_DATABASE_URL",
        "WRITE_BATCHER_MAX_BACKLOG",
        "WRITE_BATCHER_TABLES",
    ]
    assert settings_inheriting(ADDRESSES).database_url == "sqlite+aiosqlite:///mine.db"
    assert settings_inheriting(ADDRESSES).tables == ("main_writes",)
    assert ignored_variables(ADDRESSES) == ["WRITE_BATCHER_MAX_BACKLOG", "WRITE_BATCHER_TABLES"]
