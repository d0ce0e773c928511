"""The parser of a command: its options are added when they are needed, and its errors show its own usage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class Command(argparse.ArgumentParser):
    """A parser of one command, or of several tasks.

    Parameters
    ----------
    *args, **options
        Of :class:`argparse.ArgumentParser`.
    fill
        Functions that add options to the parser, called as soon as something is parsed or printed.
    """

    def __init__(self, *args: Any, fill: Sequence[Callable[[Command], None]] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._fill = fill

    def complete(self) -> None:
        """Add the options, if they are not there yet."""
        fill, self._fill = self._fill, ()
        for add in fill:
            add(self)

    def task(self, name: str) -> Command | None:
        """The parser of a task by its name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                return action.choices[name]
        return None

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments; what is left over is an error of this command, and not of the program."""
        self.complete()
        if self._subparsers is not None:  # which of its commands is meant, and no more
            return super().parse_known_args(args, namespace)
        parsed, left = super().parse_known_args(self._in_order(sys.argv[1:] if args is None else args), namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._meant(left)}")
        return parsed, left

    def _in_order(self, words: Sequence[str]) -> list[str]:
        """Words with the stores first, so that they may stand anywhere: also behind an option that takes several words.

        There a word that ends in ``.zarr``, or is the path of a folder, begins the stores: ``--genes A B s.zarr``. If
        there are no stores otherwise, this is the first word of a list by which something exists.
        """
        places: list[str] = []
        rest: list[str] = []
        listed: list[int] = []
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            if word == "--":
                return [*rest, word, *places, *waiting]
            if not word.startswith("-"):
                places.append(word)
                continue
            rest.append(word)
            action = self._option(word)
            if action is None or "=" in word or action.nargs == 0:
                continue
            if action.nargs is None:
                rest += waiting[:1]
                del waiting[:1]
                continue
            while waiting and not waiting[0].startswith("-") and not _is_store(waiting[0]):
                listed.append(len(rest))
                rest.append(waiting.pop(0))
        if not places and self._get_positional_actions():
            first = next((k for k in listed if Path(rest[k]).exists()), None)
            last = next((k for k in listed if first is not None and k >= first and k + 1 not in listed), None)
            if first is not None and last is not None:
                places, rest = rest[first : last + 1], rest[:first] + rest[last + 1 :]
        return [*places, *rest]

    def _option(self, word: str) -> argparse.Action | None:
        """The option that a word names, whole or by its beginning."""
        name = word.partition("=")[0]
        known = self._option_string_actions
        begun = [one for one in known if name.startswith("--") and one.startswith(name)]
        return known[name] if name in known else known[begun[0]] if len(begun) == 1 else None

    def _meant(self, left: Sequence[str]) -> str:
        """The known options that are written much like an unknown one."""
        unknown = next((one.partition("=")[0] for one in left if one.startswith("-")), None)
        close = get_close_matches(unknown, list(self._option_string_actions), n=1) if unknown else []
        return f" (did you mean {close[0]}?)" if close else ""


def _is_store(word: str) -> bool:
    """Whether a word in a list, for example of genes, is rather a store, or any path to a folder."""
    return word.endswith(".zarr") or ("/" in word and Path(word).is_dir())
