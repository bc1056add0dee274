"""README keeps up with the program: its commands parse, its names exist, its JSON is complete."""

import re
import shlex
from pathlib import Path

import click
import pytest

import ledger
from cli.main import commands

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"(?ms)^```\w*$(.*?)^```$", README))
COMMANDS = sorted(set(re.findall(r"(?m)^\$ (ledger [a-z].*?)(?:\s+#.*)?$", BLOCKS)))


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_readme_is_one_that_the_program_takes(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = commands
    # As the program makes it: click keeps what a command is first asked for help with.
    context = click.Context(command, **commands.context_settings)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize(
    "name", re.findall(r"\w+", " ".join(re.findall(r"from ledger import (.*)", README)))
)
def test_every_name_that_the_readme_imports_exists(name: str) -> None:
    assert getattr(ledger, name)


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?m)^make ([a-z-]+)", BLOCKS):
        assert re.search(rf"(?m)^{target}:", makefile), target
