"""``--skip-existing``: sections that were done before with the same settings, and have not changed, are left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from storm import _keys
from storm.cli._done import of_embedding, settings_of, state
from storm.cli._inputs import changed
from storm.cli._say import print_warning
from storm.cli._section import Job, Outcome


def split(jobs: Sequence[Job], *, study: Sequence[str] = ()) -> tuple[list[Job], list[Outcome]]:
    """Divide jobs into those that are to run and the outcomes of the others.

    A store of the section's own that holds a result of other settings is computed again, and a line says so. A store
    that was to be new is kept, and its section fails: nothing is mixed, and nothing is replaced.

    Parameters
    ----------
    jobs
        One for each section.
    study
        All stores, if they are computed together.

    Returns
    -------
    waiting : list of Job
        What is to run.
    others : list of Outcome
        Of sections that are done, or must not be.
    """
    waiting: list[Job] = []
    others: list[Outcome] = []
    for job in jobs:
        told = settings_of(str(job.command), job.options)
        if study:
            told["study"] = list(study)
        key = key_of(job)
        if job.command == "domains":
            told["from"] = of_embedding(job.options["path"], job.options["use_rep"])
        new: Path | None = job.options["out"] or job.options.get("table_out")
        store = new or job.options["path"]
        look = partial(changed, command=str(job.command), options=job.options)
        differs = state(store, key, told, look=look) if store.exists() else None
        if differs == "":
            text = f"skipped: {key!r} is there, made with the same settings of the same data: {store}"
            others.append(Outcome(job.shown, result=text, tries=0, skipped=True))
        elif new is not None and store.exists():
            text = f"has no {key!r}" if differs is None else f"has {key!r}, made {differs}"
            advice = "it is kept as it is; give another name, or remove it"
            others.append(Outcome(job.shown, error=f"{new} {text}; {advice}", tries=0))
        else:
            if differs is not None:
                print_warning(f"{job.shown}: has {key!r}, made {differs}; it is computed again")
            waiting.append(job)
    return waiting, others


def key_of(job: Job) -> str:
    """Key of a command's result."""
    key = job.options["key_added"]
    if key is None:
        from storm.encoders import get_encoder

        return _keys.tiles_key(get_encoder(job.options["encoder"]).name)
    return str(key)
