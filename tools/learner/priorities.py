"""Who gets a process first: training, then everything else."""

from __future__ import annotations


def other_work_waits(allowed: int, training: int, waiting: int) -> bool:
    """Whether no further piece of other work may be begun now; what is in progress is finished in any case.

    Args:
        allowed: how many processes may work at all.
        training: how many of them train, or are kept ready for that.
        waiting: how much waits to be trained on.
    """
    return allowed == 0 or (waiting > 0 and training >= allowed)
