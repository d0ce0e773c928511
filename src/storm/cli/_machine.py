"""How many sections this machine can work on at once: by its GPUs, otherwise by its cores and memory."""

from __future__ import annotations

import os

#: Memory in GiB that a section on the CPU is assumed to need; more processes than fit are started only on request.
_GIB_PER_SECTION = 4


def workers_for(n: int, device: str | None, *, wanted: int | None) -> int:
    """Return the number of processes for ``n`` sections: one per GPU where they run on GPUs, else one per core.

    Parameters
    ----------
    n
        Number of sections.
    device
        ``--device``; ``None`` for a command without that option, which runs on the CPU.
    wanted
        ``--workers``, or ``None`` if the user has not given it.
    """
    if wanted is not None:
        return min(n, wanted)
    if on_gpus := visible_gpus(device):
        return min(n, len(on_gpus))
    if device not in (None, "cpu") and (device != "auto" or _has_mps()):
        return 1  # a single device, given by name
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return min(n, CPU_COUNT, max(1, MEMORY_LIMIT // (_GIB_PER_SECTION * 2**30)))


def visible_gpus(device: str | None) -> list[str]:
    """Names of the GPUs that sections may be distributed over, in the format of ``CUDA_VISIBLE_DEVICES``."""
    if device not in ("auto", "cuda"):
        return []
    import torch

    n = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.replace(" ", "").split(",")[:n] if given else [str(i) for i in range(n)]


def threads_of_each(workers: int) -> int:
    """Number of threads that each of ``workers`` processes computes with."""
    from dask.system import CPU_COUNT

    return max(1, CPU_COUNT // workers)


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()
