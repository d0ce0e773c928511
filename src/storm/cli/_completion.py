"""``storm completion``, and what a shell asks when a key is pressed; by argcomplete, without any large package."""

from __future__ import annotations

import os

from storm.cli._command import Command

SHELLS = ("bash", "zsh", "fish")


def is_asked() -> bool:
    """Whether a shell asks for words, and waits for no command."""
    return "_ARGCOMPLETE" in os.environ


def answer(program: Command) -> None:
    """Print the words that may follow, and end the process."""
    import argcomplete

    parser = program
    for word in os.environ["COMP_LINE"].split()[1:]:  # the commands on the way have their options from now on
        parser.complete()
        parser = parser.task(word) or parser
    parser.complete()
    argcomplete.autocomplete(program)


def completion(*, shell: str) -> None:
    """``storm completion``."""
    import argcomplete

    print(argcomplete.shellcode(["storm"], shell=shell))
