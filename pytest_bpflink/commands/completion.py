"""Print code that lets a shell complete bpflink's arguments.

eval "$(bpflink completion bash)"      in ~/.bashrc
eval "$(bpflink completion zsh)"       in ~/.zshrc, after compinit
bpflink completion fish > ~/.config/fish/completions/bpflink.fish
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bpflink.commands.output import CommandError, write

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


def run(arguments: argparse.Namespace) -> int:
    """Print it; raises `CommandError` where argcomplete is not installed."""
    try:
        from argcomplete.shell_integration import shellcode  # an extra
    except ImportError:
        raise CommandError(
            "completion needs argcomplete, which is not installed:"
            " pip install 'pytest-bpflink[cli]'"
        ) from None
    write(shellcode(["bpflink"], shell=arguments.shell))
    return 0
