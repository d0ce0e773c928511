"""What a check found: rows, and how they are shown."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["fail", "warn", "ok", "info"]

#: The verdicts, the worst first, and their colours in a notebook.
VERDICTS: dict[str, str] = {"fail": "#b00020", "warn": "#a05a00", "ok": "#1b6e3c", "info": "#555555"}
#: Columns of text that a line of the report has.
_WIDTH = 100


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes
    ----------
    name
        What was checked.
    value
        What was found, in words and numbers.
    verdict
        ``"ok"``; ``"warn"``: look at it; ``"fail"``: results would be wrong, or none at all; ``"info"``: a fact.
    explanation
        What it means and what to do; may be empty where all is well.
    facts
        The numbers behind it.
    """

    name: str
    value: str
    verdict: Verdict
    explanation: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class CheckReport:
    """Report of :func:`storm.pp.check`: shown as text in a terminal and as a table in a notebook.

    Attributes
    ----------
    rows
        What was found, one after the other.
    """

    rows: tuple[Row, ...]

    @property
    def table(self) -> pd.DataFrame:
        """One row per check, indexed by its name: ``value``, ``verdict``, ``explanation``."""
        import pandas as pd

        columns = ["value", "verdict", "explanation"]
        rows = [[getattr(row, column) for column in columns] for row in self.rows]
        return pd.DataFrame(rows, columns=columns, index=pd.Index([row.name for row in self.rows], name="name"))

    @property
    def verdict(self) -> Verdict:
        """The worst of all verdicts (``"info"`` counts as ``"ok"``)."""
        given = {row.verdict for row in self.rows}
        return next((v for v in ("fail", "warn") if v in given), "ok")

    @property
    def ok(self) -> bool:
        """Whether nothing fails; warnings may be there."""
        return self.verdict != "fail"

    def __getitem__(self, name: str) -> Row:
        """The check of that name.

        Raises
        ------
        KeyError
            If there is none: not every section has every check.
        """
        for row in self.rows:
            if row.name == name:
                return row
        msg = f"no check is named {name!r}; there are {[row.name for row in self.rows]}"
        raise KeyError(msg)

    def __contains__(self, name: str) -> bool:
        return any(row.name == name for row in self.rows)

    def summary(self) -> dict[str, dict[str, Any]]:
        """The report as plain dictionaries: value, verdict, explanation and numbers of each check."""
        return {
            row.name: {"value": row.value, "verdict": row.verdict, "explanation": row.explanation, **row.facts}
            for row in self.rows
        }

    def __repr__(self) -> str:
        wide = max((len(row.name) for row in self.rows), default=0)
        indent = " " * (wide + 8)
        lines = [self._headline()]
        for row in self.rows:
            mark = row.verdict.upper() if row.verdict == "fail" else row.verdict
            lines += _wrapped(row.value, first=f"{mark:<4}  {row.name:<{wide}}  ", rest=indent)
            # What is well needs no advice.
            if row.explanation and row.verdict != "ok":
                lines += _wrapped(row.explanation, first=indent + "→ ", rest=indent + "  ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{escape(row.name)}</td><td style='text-align:left'>{escape(row.value)}</td>"
            f"<td style='color:{VERDICTS[row.verdict]};font-weight:bold'>{row.verdict}</td>"
            f"<td style='text-align:left'>{escape(row.explanation)}</td></tr>"
            for row in self.rows
        )
        head = "".join(f"<th>{name}</th>" for name in ("check", "value", "verdict", "explanation"))
        return f"<p>{escape(self._headline())}</p><table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"

    def _headline(self) -> str:
        counts = {verdict: sum(row.verdict == verdict for row in self.rows) for verdict in VERDICTS}
        listed = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
        return f"{len(self.rows)} checks: {listed}"


@dataclass(frozen=True, repr=False)
class StudyReport(CheckReport):
    """Report of :func:`storm.pp.check` on several sections: a row for each of them, then rows about what differs.

    Attributes
    ----------
    rows
        One for each section, named after it, then those of the comparison.
    sections
        The reports of the sections by themselves, by name.
    """

    sections: dict[str, CheckReport] = field(default_factory=dict)

    def summary(self) -> dict[str, dict[str, Any]]:
        """The reports of the sections under ``"sections"``, by name, and the comparison under ``"compared"``."""
        compared = CheckReport(self.rows[len(self.sections) :])
        # a slash would divide a key of uns
        sections = {name.replace("/", "_"): report.summary() for name, report in self.sections.items()}
        return {"sections": sections, "compared": compared.summary()}

    def _headline(self) -> str:
        counts = {verdict: sum(one.verdict == verdict for one in self.sections.values()) for verdict in VERDICTS}
        listed = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
        compared = len(self.rows) - len(self.sections)
        return f"{len(self.sections)} sections: {listed}; {compared} comparisons"


def _wrapped(text: str, *, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
