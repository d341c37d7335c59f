"""Takes a name out of the buffer without ever taking a newer file with it.

A foreign writer may replace a file at any moment, also between our last look at it and the call that removes its name. So the
name is not removed but renamed away, into a folder where nobody else writes; then there is time to look at what was taken.
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from background_training.paths import EPISODE_SUFFIX, Paths
from background_training.storage import atomic_files

NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.EINVAL}
"""How a disk says that it gives no file a second name."""


def take_aside(paths: Paths, name: str) -> Path:
    """Rename what bears a name in the buffer now to where it can be looked at; return where that is.

    Whoever is killed before he has decided over it leaves it to `put_all_back`.

    Raises:
        FileNotFoundError: nothing bears the name, or the folder aside is gone.
    """
    aside = paths.leaving / name
    if atomic_files.exists(aside):
        put_back(paths, aside)
    atomic_files.retry_while_shared(lambda: os.rename(paths.buffer / name, aside))
    return aside


def put_back(paths: Paths, aside: Path) -> None:
    """Return a file to its name in the buffer; to another one if that has been given to a still newer file.

    Raises:
        OSError: the machine failed; it lies aside still.
    """
    target = paths.buffer / aside.name
    while not _returned(aside, target):
        target = paths.buffer / f"returned_{secrets.token_hex(4)}{EPISODE_SUFFIX}"


def _returned(aside: Path, target: Path) -> bool:
    try:
        # A rename could overwrite a file that has come since; a second name can't.
        os.link(aside, target, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samestat(os.lstat(aside), os.lstat(target)):
            return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_HARD_LINKS:
            raise
        if atomic_files.exists(target):
            return False
        atomic_files.retry_while_shared(lambda: os.rename(aside, target))
        return True
    os.unlink(aside)
    return True


def put_all_back(paths: Paths) -> None:
    """Return what a process that was killed has left aside; the caller holds the worker lock."""
    for name in sorted(os.listdir(paths.leaving)):
        put_back(paths, paths.leaving / name)
