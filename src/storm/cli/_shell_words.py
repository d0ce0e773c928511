"""Messages in the words of the shell: ``--um-per-px 0.5`` for ``um_per_px=0.5``, ``storm embed`` for its function.

The functions behind the commands speak Python, whose names the user of a command has not typed. Code that is to be run
in Python, such as ``sdata.write(path)``, stays as it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

#: Commands that run a function.
_COMMANDS = {
    "storm.tl.embed": "storm embed",
    "storm.tl.encode_tiles": "storm encode",
    "storm.tl.domains": "storm domains",
    "storm.tl.predict_expression": "storm predict",
    "storm.tl.adapt": "storm adapt",
    "storm.pp.check": "storm check",
    **{f"storm.io.{name}": f"storm read {name}" for name in ("visium", "visium_hd", "xenium", "cosmx", "st", "slide")},
    "storm.io.from_anndata": "storm read h5ad",
    "storm.prognosis.add_slides": "storm cohort add",
    "storm.prognosis.fit": "storm prognosis fit",
    "storm.prognosis.predict": "storm prognosis predict",
}
#: Arguments that are what a command is about, not options of it.
_OPERANDS = ("paths", "path", "folder", "config", "command", "task", "compared")
#: A call in Python: a dotted name and parentheses, which may hold one more pair.
_CALL = re.compile(r"\b[A-Za-z_]\w*(?:(?:\[[^\]]*\])?\.\w+)+\((?:[^()]|\([^()]*\))*\)")
#: Several objects in one call.
_TOGETHER = re.compile(r"storm\.tl\.(embed|domains)\(\[\.\.\.\]\)")
#: What follows an argument's name: text in quotes, a number, or a list.
_VALUE = r"(?:=(?P<value>'[^']*'|\"[^\"]*\"|\[[^\]]*\]|-?\d+(?:\.\d+)?(?:e-?\d+)?|True\b|False\b|\.\.\.)?)"
#: Options that are given once for each library, ``--image A=A.tif``, where their function takes a dictionary.
_BY_LIBRARY = re.compile(r"(?<![\w.'\"\[/-])(?P<name>image|um_per_px)=\{'(?P<library>[^']*)': (?P<one>[^{}]*)\}")


def options_of(arguments: Mapping[str, Any]) -> frozenset[str]:
    """Names of the options of a command, as its function calls them."""
    return frozenset(name for name in arguments if name not in _OPERANDS)


def in_shell_words(text: str, options: Collection[str]) -> str:
    """A message about the arguments of a function as one about the options of its command.

    Parameters
    ----------
    text
        The message.
    options
        Names of the options that the command has; what it has no option for stays as it is.
    """
    text = _TOGETHER.sub(r"storm \1 --joint STORE STORE", text)
    calls: list[str] = []

    def kept(match: re.Match[str]) -> str:
        calls.append(match.group())
        return f"\0{len(calls) - 1}\0"

    text = _CALL.sub(kept, text)
    for function, command in _COMMANDS.items():
        text = re.sub(rf"(?<![\w.]){re.escape(function)}\b(?![\w.]*\()", command, text)
    if options:
        text = _BY_LIBRARY.sub(lambda match: _of_library(match) if match["name"] in options else match[0], text)
        names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
        text = re.sub(rf"(?<![\w.'\"\[/-])(?P<name>{names}){_VALUE}(?![\w{{])", _option, text)
        bare = "|".join(re.escape(name) for name in options if "_" in name)
        if bare:
            text = re.sub(rf"(?<![\w.'\"\[/-])(?P<name>{bare})(?![\w='\"\]/])", _flag, text)
    return re.sub("\0(\\d+)\0", lambda match: calls[int(match.group(1))], text)


def _flag(match: re.Match[str]) -> str:
    return f"--{match.group('name').replace('_', '-')}"


def _of_library(match: re.Match[str]) -> str:
    return f"{_flag(match)} {shlex.quote(match['library'])}={match['one']}"


def _option(match: re.Match[str]) -> str:
    value = match.group("value")
    if value is None or value in ("True", "..."):
        return _flag(match)
    if value == "False":
        return f"--no-{_flag(match)[2:]}"
    if value.startswith("["):
        value = " ".join(part.strip().strip("'\"") for part in value[1:-1].split(","))
    elif value[0] in "'\"" and re.fullmatch(r"[\w.:/@+-]+", value[1:-1]):
        value = value[1:-1]
    return f"{_flag(match)} {value}"
