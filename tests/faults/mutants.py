"""Tries wrong variants of the product: `python -m tests.faults.mutants [--jobs N] [NAME...]`.

First each test must pass on the unchanged sources. Then each mutant is applied to a copy of them, where its test must
fail and show the mutant's symptom: a test that fails for another reason has not found it. The exit status is 1 when a
mutant survives, or when its text is no longer in the sources.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.faults.mutant_list import MUTANTS, Edit, Mutant

ROOT = Path(__file__).parents[2]
SOURCES = ("activities", "bench", "cli", "compare", "docs", "queue", "sinks", "tests", "workers", "workflows")


class Unusable(Exception):
    """A test that cannot run, or a mutant that cannot be applied."""


def failure_of(test: str, edits: Sequence[Edit] = ()) -> str | None:
    """Run the test on a copy of the sources with these edits; return its output if it fails, None if it passes."""
    with tempfile.TemporaryDirectory(prefix="write-batcher-mutant-") as temporary:
        copy = Path(temporary) / "write_batcher"
        copy.mkdir()
        for name in SOURCES:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (*ROOT.glob("*.py"), ROOT / "pyproject.toml", ROOT / "README.md"):
            shutil.copy(file, copy)
        for edit in edits:
            source = copy / edit.file
            text = source.read_text()
            if text.count(edit.right) != 1:
                raise Unusable(
                    f"{edit.file} has {edit.right!r} {text.count(edit.right)} times, not once: adapt the mutant."
                )
            source.write_text(text.replace(edit.right, edit.wrong))
        # The copy goes before the installed package, which links to the sources.
        path = os.pathsep.join([temporary, str(copy)])
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", test],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if run.returncode not in (0, 1) or " skipped" in run.stdout:  # no such test, or one that this machine skips
            raise Unusable(f"Pytest ended with {run.returncode}:\n{run.stdout[-2000:]}")
        return run.stdout if run.returncode else None


def verdict_on_test(test: str) -> str:
    return "sound" if failure_of(test) is None else "BROKEN"


def verdict_on_mutant(mutant: Mutant) -> str:
    failure = failure_of(mutant.test, [mutant, *mutant.also])
    if failure is None:
        return "SURVIVED"
    return "killed" if mutant.symptom in failure else f"FAILED WITHOUT {mutant.symptom!r}:\n{failure[-2000:]}\n"


def judged(judge: Callable[[], str], name: str) -> str:
    """Print and return a verdict."""
    begun = time.monotonic()
    try:
        verdict = judge()
    except Unusable as error:
        verdict = f"UNUSABLE: {error}\n"
    print(f"{verdict:8}  {time.monotonic() - begun:4.0f} s  {name}", flush=True)  # noqa: T201
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try; all by default")
    parser.add_argument("--jobs", type=int, default=3, help="tried at once: their tests mostly wait")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if not arguments.names or mutant.name in arguments.names]
    tests = sorted({mutant.test for mutant in mutants})
    work = [(partial(verdict_on_test, test), test) for test in tests]
    work += [(partial(verdict_on_mutant, mutant), f"{mutant.name}  {mutant.test}") for mutant in mutants]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        verdicts = Counter(pool.map(lambda one: judged(*one), work))
    print(f"{verdicts['sound']} of {len(tests)} tests sound, {verdicts['killed']} of {len(mutants)} mutants killed")  # noqa: T201
    sys.exit(0 if mutants and verdicts.keys() == {"sound", "killed"} else 1)


if __name__ == "__main__":
    main()
