"""Fields of a JSON file, asked for by name and type: whatever the file holds, an error names the field."""

from __future__ import annotations

import math
import re
from pathlib import PurePath
from typing import Any, NoReturn

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Fields:
    """A JSON object whose fields are checked when they are read.

    Parameters
    ----------
    values
        What the file holds.
    source
        Name of the file and its folder, for errors.
    at
        Name of the field that holds ``values``, for errors; empty for the whole file.

    Raises
    ------
    ValueError
        If ``values`` is not a JSON object. Every method raises it too, if the field is missing or of another type.
    """

    def __init__(self, values: Any, *, source: str, at: str = "") -> None:
        self._source, self._at = source, at
        if not isinstance(values, dict):
            self._refuse(f"field {at!r}" if at else "the file", "a JSON object ({…})", values)
        self._values: dict[str, Any] = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def names(self) -> list[str]:
        """Names of all fields."""
        return list(self._values)

    def raw(self, name: str) -> Any:
        """A field of any type."""
        if name not in self._values:
            msg = f"{self._source} has no field {self._path(name)!r}; it has {self.names()}; {_ADVICE}"
            raise ValueError(msg)
        return self._values[name]

    def section(self, name: str) -> Fields:
        """A field that is a JSON object itself."""
        return Fields(self.raw(name), source=self._source, at=self._path(name))

    def mapping(self, name: str) -> dict[str, Any]:
        """A JSON object whose fields are free."""
        value = self.raw(name)
        if not isinstance(value, dict):
            self.refuse(name, "a JSON object ({…})")
        return dict(value)

    def text(self, name: str) -> str:
        """Text that is not empty."""
        value = self.raw(name)
        if not isinstance(value, str) or not value:
            self.refuse(name, "text that is not empty")
        return value

    def optional_text(self, name: str) -> str | None:
        """Text, possibly empty, or null."""
        value = self.raw(name)
        if value is not None and not isinstance(value, str):
            self.refuse(name, "text or null")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.raw(name)
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def whole(self, name: str, *, least: int = 1) -> int:
        """A whole number of at least ``least``."""
        value = self.raw(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(name, f"a whole number of at least {least}")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.raw(name)
        if not _is_number(value) or not math.isfinite(value):
            self.refuse(name, "a finite number")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.raw(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.refuse(name, "a list of texts")
        return tuple(value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers, NaN where the file holds null."""
        value = self.raw(name)
        if not isinstance(value, list) or not all(one is None or _is_number(one) for one in value):
            self.refuse(name, "a list of numbers or null")
        return tuple(math.nan if one is None else float(one) for one in value)

    def sha256(self, name: str) -> str:
        """A sha256 in hexadecimal."""
        value = self.raw(name)
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            self.refuse(name, "a sha256 (64 characters of 0-9 and a-f)")
        return value

    def checksums(self, name: str) -> dict[str, str]:
        """Checksums by file name, none of which leaves the folder."""
        section = self.section(name)
        for file in section.names():
            if not is_plain(file):
                msg = f"{self._source}: {file!r} in field {section._at!r} is not the name of a file in this folder"
                raise ValueError(msg)
        return {file: section.sha256(file) for file in section.names()}

    def refuse(self, name: str, what: str) -> NoReturn:
        """Raise the error for a field that must be something else.

        Parameters
        ----------
        name
            The field.
        what
            What it must be.

        Raises
        ------
        ValueError
            Always.
        """
        self._refuse(f"field {self._path(name)!r}", what, self._values[name])

    def _refuse(self, subject: str, what: str, value: Any) -> NoReturn:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
        msg = f"{self._source}: {subject} must be {what}, not {shown} ({type(value).__name__}); {_ADVICE}"
        raise ValueError(msg)

    def _path(self, name: str) -> str:
        return f"{self._at}.{name}" if self._at else name


_ADVICE = "copy the model's folder again, or save the model again"


def is_plain(name: str) -> bool:
    """Whether a file name stays in its folder on every system: no separators, drives or parents."""
    return PurePath(name).name == name and not set(name) & set("/\\:\0") and name.strip(". ") != ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
