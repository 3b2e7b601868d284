"""Commands that messages and docs name exist, with the options that they name."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from write_batcher.cli.app import app

REPOSITORY = Path(__file__).parents[2]
PRODUCT = ("activities", "bench", "cli", "compare", "queue", "sinks", "workers", "workflows")
NAMED = re.compile(r"`write-batcher ([^`]+)`")


def files() -> Iterator[Path]:
    yield from REPOSITORY.glob("*.py")
    yield from (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"))
    for room in PRODUCT:
        yield from (REPOSITORY / room).rglob("*.py")


def named_commands() -> list[str]:
    """Each once, with names in place of what is filled in."""
    found: dict[str, None] = {}
    for file in sorted(files()):
        # A message may go on in the next line of its source.
        text = re.sub(r'"\s*\n\s*f?"', "", file.read_text("utf-8"))
        for command in NAMED.findall(text):
            found[re.sub(r"\{[^}]*\}", "X", command)] = None
    return list(found)


def test_messages_name_some_commands() -> None:
    assert "queue resume --queue X" in named_commands()


@pytest.mark.parametrize("command", named_commands())
def test_command_that_is_named_exists_with_its_options(command: str) -> None:
    words = command.replace("[", " ").replace("]", " ").split()
    found = get_command(app)
    while isinstance(found, TyperGroup) and words and not words[0].startswith("-"):
        word = words.pop(0)
        if word == "..." or word.isupper():  # stands for any
            return
        one_of = re.split(r"\\?\|", word)
        assert set(one_of) <= found.commands.keys()
        found = found.commands[one_of[0]]
    options = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options | {"--help"}
