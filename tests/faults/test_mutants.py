"""The mutants fit the sources: otherwise nobody would notice before they are run."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.fast
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_text_of_a_mutant_occurs_once_and_its_test_exists(mutant: Mutant) -> None:
    for edit in (mutant, *mutant.also):
        assert (ROOT / edit.file).read_text().count(edit.right) == 1, f"{edit.file}: {edit.right}"
    file, *names = mutant.test.partition("[")[0].split("::")
    tests = ast.walk(ast.parse((ROOT / file).read_text()))
    assert names[-1] in {node.name for node in tests if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.fast
def test_names_of_mutants_differ() -> None:
    assert set(Counter(mutant.name for mutant in MUTANTS).values()) == {1}
