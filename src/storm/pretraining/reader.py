"""From the jobs of a step to its batches, one step ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storm.pretraining.augment import Augmentation
from storm.pretraining.distributed import Job
from storm.pretraining.objective import Masking
from storm.pretraining.stream import StreamedBatch, StreamedSection


@dataclass(frozen=True)
class Reader:
    """Reads the batches of jobs.

    Attributes
    ----------
    sections
        All sections.
    masking
        How windows are masked.
    augmentation
        Crops and flips of H&E; ``None`` for the tiles as they are.
    pixels
        Whether batches come with the pixels of the visible spots.
    """

    sections: Sequence[StreamedSection]
    masking: Masking
    augmentation: Augmentation | None
    pixels: bool

    def __call__(self, job: Job) -> tuple[StreamedBatch, int]:
        """A job's batch, and the seed of its masks."""
        batch = self.sections[job.section].take(job.rows)
        if self.pixels:
            batch.read_tiles(self.masking, job.seed, augmentation=self.augmentation)
        return batch, job.seed


def fetch(
    steps: list[list[Job]], reader: Reader, rank: int, world: int
) -> Iterator[tuple[list[Job], list[tuple[StreamedBatch, int]]]]:
    """Read the batches of each step, and those of the next step meanwhile.

    Parameters
    ----------
    steps
        Jobs of every step.
    reader
        Reader of their batches.
    rank, world
        This process, and the number of processes.

    Yields
    ------
    jobs : list of Job
        All jobs of the step.
    batches : list of (StreamedBatch, int)
        Batches of this process's share of them, and the seeds of their masks.
    """
    if not steps:
        return

    def read(jobs: list[Job]) -> list[tuple[StreamedBatch, int]]:
        return [reader(job) for job in jobs[rank::world]]

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, steps[0])
        for at, jobs in enumerate(steps):
            batches = waiting.result()
            if at + 1 < len(steps):
                waiting = pool.submit(read, steps[at + 1])
            yield jobs, batches
