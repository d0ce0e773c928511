"""The parser of a command: its options are added when they are needed, and its errors show its own usage."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any


class Command(argparse.ArgumentParser):
    """A parser of one command, or of several tasks.

    Parameters
    ----------
    *args, **options
        Of :class:`argparse.ArgumentParser`.
    fill
        Adds the options to the parser, as soon as something is parsed or printed.
    """

    def __init__(self, *args: Any, fill: Callable[[Command], None] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._fill = fill

    def complete(self) -> None:
        """Add the options, if they are not there yet."""
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments; what is left over is an error of this command, and not of the program."""
        self.complete()
        parsed, left = super().parse_known_args(args, namespace)
        if left and not self._has_tasks():
            self.error(f"unrecognized arguments: {' '.join(left)}{self._meant(left)}")
        return parsed, left

    def _has_tasks(self) -> bool:
        return self._subparsers is not None

    def _meant(self, left: Sequence[str]) -> str:
        """The known options that are written much like an unknown one."""
        unknown = next((one.partition("=")[0] for one in left if one.startswith("-")), None)
        close = get_close_matches(unknown, list(self._option_string_actions), n=1) if unknown else []
        return f" (did you mean {close[0]}?)" if close else ""
