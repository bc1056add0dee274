"""`ledger completion`: the script that lets a shell complete what is typed."""

import click

from cli.rendering import write

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print the script for completion in a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, branches, tags, turns and files
    when TAB is pressed. To have it in every new shell, write into the file it reads at its start:

    \b
    Example: ledger completion bash
             eval "$(ledger completion bash)"           in ~/.bashrc; bash 4.4 or newer
             eval "$(ledger completion zsh)"            in ~/.zshrc, after compinit
             ledger completion fish | source            in ~/.config/fish/config.fish

    \b
    Or keep it where the shell looks for it when it is needed, which starts it faster:
             ~/.local/share/bash-completion/completions/ledger    with the package bash-completion
             ~/.config/fish/completions/ledger.fish
             _ledger, in a folder of $fpath             for zsh
    """
    from click.shell_completion import get_completion_class

    context = click.get_current_context().find_root()
    script = get_completion_class(shell)
    assert script is not None
    name = context.info_name or ""
    write(script(context.command, {}, name, f"_{name}_COMPLETE".upper()).source(), end=False)
