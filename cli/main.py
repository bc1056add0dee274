"""The entry point: the commands, and the one place where an error becomes a sentence."""

import importlib
import sys
from typing import NoReturn

import click

from cli.rendering import short, tell
from cli.starting import importing, leave_quickly
from patches.errors import EditLedgerError, SettingError

# What is wrong with a file may quote it.
_LONGEST = 4000
# command → (module, attribute), imported when called: reading commands never load torch.
_COMMANDS = {
    "init": ("cli.setting_up", "init"),
    "add-edits": ("cli.editing", "add_edits"),
    "tune": ("cli.tuning", "tune"),
    "settings": ("cli.settings", "settings"),
    "log": ("cli.log", "log"),
    "show": ("cli.reading", "show"),
    "status": ("cli.reading", "status"),
    "search": ("cli.finding", "search"),
    "blame": ("cli.finding", "blame"),
    "diff": ("cli.diffing", "diff"),
    "bisect": ("cli.bisecting", "bisect"),
    "serve": ("cli.serving", "serve"),
    "apply": ("cli.states", "apply"),
    "rollback": ("cli.states", "rollback"),
    "squash": ("cli.squashing", "squash"),
    "branch": ("cli.branches", "branch"),
    "switch": ("cli.branches", "switch"),
    "tag": ("cli.branches", "tag"),
    "reflog": ("cli.branches", "reflog"),
    "merge": ("cli.combining", "merge"),
    "cherry-pick": ("cli.combining", "cherry_pick"),
    "replay": ("cli.replaying", "replay"),
    "merge-shards": ("cli.memories", "merge_shards"),
    "route": ("cli.memories", "route"),
    "push": ("cli.sharing", "push"),
    "pull": ("cli.sharing", "pull"),
    "clone": ("cli.sharing", "clone"),
    "import": ("cli.exchange", "import_"),
    "export": ("cli.exchange", "export"),
    "evaluate": ("cli.evaluating", "evaluate"),
    "report": ("cli.reporting", "report"),
    "verify": ("cli.checking", "verify"),
    "attest": ("cli.attesting", "attest"),
    "plot": ("cli.reporting", "plot"),
    "gc": ("cli.checking", "gc"),
    "db": ("cli.database", "db"),
    "completion": ("cli.completion", "completion"),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        with importing():
            command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="edit-ledger", prog_name="ledger")
def commands() -> None:
    """Version control for knowledge edits of language models.

    \b
    ledger init --model ./SmolLM2-135M-Instruct
    ledger add-edits facts.json --turn-size 100
    ledger log
    ledger apply --to ./patched
    ledger rollback turn 3 --to ./patched

    Every command finds the ledger in .ledger here or above; --ledger DIR or the environment
    variable LEDGER_DIR names another. Results go to standard output (--json for programs),
    progress and errors to standard error. Exit status: 0 done, 1 an error or a failed
    verification, 2 wrong usage, 3 a turn that failed its gate.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one line on standard error."""
    leave_quickly()
    try:
        commands.main(args=arguments, prog_name="ledger", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(_usage(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        tell("stopped; what was recorded stays, nothing is half done", err=True)
        sys.exit(130)
    except SettingError as error:
        _fail(str(error), 2)
    except EditLedgerError as error:
        _fail(str(error), 1)
    except OSError as error:
        # What no use case has translated: a full disk, a folder without permission.
        _fail(f"{error.filename or 'the system says'}: {error.strerror or error}", 1)


def _fail(message: str, status: int) -> NoReturn:
    tell(f"error: {short(message, _LONGEST)}", err=True)
    sys.exit(status)


def _usage(error: click.ClickException) -> str:
    """What was used wrongly, and where the right use is described."""
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message.removesuffix('.')}; see: {error.ctx.command_path} --help"
    return message
