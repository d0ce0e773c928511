"""What made the features of a cohort: the same for all slides, or they are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storm import __version__
from storm._bridge.cohort_tables import FACTS, FORMAT, tables_lock
from storm._files import replacing

#: Facts that may differ between slides: a model is known by its checksum, whatever it is called where it lies.
NOTES = ("format", "storm_version", "model_name")


def read_facts(folder: Path) -> dict[str, Any]:
    """Facts of a cohort; empty while it has no features.

    Raises
    ------
    ValueError
        If the file is damaged, or of a later version.
    """
    path = folder / FACTS
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is damaged ({error}); restore it, or build the cohort again"
        raise ValueError(msg) from error
    if facts.get("format") != FORMAT:
        msg = f"{path} has format {facts.get('format')!r}, and this version of storm reads {FORMAT}; update storm"
        raise ValueError(msg)
    return facts


def adopt_facts(folder: Path, facts: Mapping[str, Any], *, slide: str) -> dict[str, Any]:
    """Make facts those of a cohort that has none yet; called before a slide's features are written.

    Parameters
    ----------
    folder
        Folder of the cohort.
    facts
        What made the features of the slide, with ``modalities``, ``he_dim`` and ``genes``.
    slide
        Its name, for the error.

    Returns
    -------
    dict
        The cohort's facts.

    Raises
    ------
    ValueError
        If features of other slides were made in another way.
    """
    new = json.loads(json.dumps(facts))  # as it is read back: a tuple is a list
    with tables_lock(folder):
        known = read_facts(folder)
        if not known:
            known = {"format": FORMAT, "storm_version": __version__, **new}
            with replacing(folder / FACTS) as scratch:
                scratch.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    check_facts(known, new, slide=slide, whole=True)
    return known


def check_facts(known: Mapping[str, Any], facts: Mapping[str, Any], *, slide: str = "", whole: bool = False) -> None:
    """Raise if the features of the cohort were made in another way.

    Parameters
    ----------
    known
        Facts of the cohort.
    facts
        What makes the features to be added.
    slide
        Name of their slide, for the error.
    whole
        Whether these are all facts: then one that the cohort has, and they have not, is another way too.

    Raises
    ------
    ValueError
        If they differ; the text names each difference.
    """
    own = {key: value for key, value in known.items() if key not in NOTES}
    facts = {key: value for key, value in facts.items() if key not in NOTES}
    compared = dict.fromkeys([*own, *facts] if whole else facts) if own else {}
    other = [key for key in compared if own.get(key) != facts.get(key)]
    if other:
        listed = "; ".join(_difference(key, own.get(key), facts.get(key)) for key in other)
        which = f"features of slide {slide!r} were" if slide else "features would be"
        msg = (
            f"the {which} made in another way than those of the cohort, beside which they cannot be laid: "
            f"{listed}. Make them in the same way, or build another cohort"
        )
        raise ValueError(msg)


def _difference(key: str, own: Any, new: Any) -> str:
    if isinstance(own, list | tuple) and isinstance(new, list | tuple):
        only = [len(set(one) - set(two)) for one, two in ((own, new), (new, own))]
        return f"{key} ({len(own)} in the cohort, {len(new)} here, {only[0]} and {only[1]} of them in one list only)"
    return f"{key} ({_short(own)} in the cohort, {_short(new)} here)"


def _short(value: Any) -> str:
    text = f"{len(value)} entries" if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= 40 else f"{text[:36]}…'"
