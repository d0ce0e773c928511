"""Choices that several public functions offer, as types: editors complete them, and the checks read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

#: What an embedding is made from; ``"auto"`` is what the object has.
Modality = Literal["auto", "both", "he", "st"]

#: A tile around each centre, or one pass over the tissue of which each centre takes its share.
Field = Literal["exact", "dense"]

#: Neighbourhood of a spot: a block of the lattice, or the nearest cells.
WindowKind = Literal["auto", "lattice", "knn"]

#: How the network's output tokens become one vector per spot.
Readout = Literal["adaptive", "section", "window", "center", "reconstruction"]

#: Precision of a network's arithmetic; ``"auto"`` is bf16 on a GPU that has it, else fp32.
Precision = Literal["auto", "fp32", "bf16", "fp16"]

#: Whether something is read: it must be there, it is left out, or it is read if there is one.
Wanted = Literal[True, False, "auto"]

#: Statistics by which H&E features are standardised: those of the section itself, or of the training sections.
Standardise = Literal["section", "training"]

#: What is taken for a technical difference between the sections of a study, and removed.
Batch = Literal["anchors", "center", "harmony", "none"]

#: ``over(step, *each, **shared)``: what ``step(section, *own, **shared)`` returns for each section of a study, in their
#: order, where ``own`` are the section's entries of ``each``.
Over = Callable[..., list[Any]]
