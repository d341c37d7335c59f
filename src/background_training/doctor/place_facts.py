"""Looks at the root's folders: what lies where, and what lies elsewhere. Changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from background_training.doctor.facts import Places
from background_training.episodes import buffer, episode_file
from background_training.errors import EpisodeError
from background_training.paths import EPISODE_SUFFIX, PARTIAL_SUFFIX, Paths, default_root

STILL_SECONDS = 60.0
_LOOKED_AT = 5000
_DEEPEST = 5
_HARMLESS_NAMES = ("thumbs.db", "desktop.ini", ".ds_store", ".gitkeep", ".gitignore", "readme.md", "readme.txt")


def look(paths: Paths, now: float) -> Places:
    entries = list(_entries(paths.buffer))
    names = [entry.name for entry in entries if buffer.is_episode_name(entry.name)]
    ages = {entry.name: now - entry.stat(follow_symlinks=False).st_mtime for entry in _still_there(entries)}
    waiting = [name for name in names if name in ages]
    fresh = not waiting and not paths.ledger.exists()
    return Places(
        exists=paths.root.is_dir(),
        has_data=paths.data.is_dir(),
        inside=_root_around(paths.root),
        elsewhere=tuple(_strays(paths)),
        other_roots=tuple(_other_roots(paths)) if fresh else (),
        not_writable=tuple(_not_writable(paths)),
        no_folders=tuple(str(path) for path in paths.folders if os.path.lexists(path) and not path.is_dir()),
        foreign_names=tuple(sorted(entry.name for entry in entries if _is_foreign(entry))),
        unfinished=tuple(name for name, age in sorted(ages.items()) if _says_unfinished(name) and age > STILL_SECONDS),
        unreadable=tuple(name for name in waiting if _is_refused(paths.buffer / name)),
        waiting=len(waiting),
        oldest_waiting_seconds=max((ages[name] for name in waiting), default=0.0),
        future=tuple((name, -ages[name]) for name in waiting if ages[name] < 0),
        newest=_newest(paths),
        longest_name=max((len(entry.name) for entry in entries), default=0),
        gymnasium_games=paths.games_log.exists(),
    )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return


def _still_there(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """Those that are files and have not been moved on meanwhile."""
    for entry in entries:
        try:
            if stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                yield entry
        except OSError:
            continue


def _says_unfinished(name: str) -> bool:
    plain = name.casefold()
    return plain.endswith(PARTIAL_SUFFIX) or (plain.endswith(EPISODE_SUFFIX) and name.startswith("."))


def _is_foreign(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    ours = buffer.is_episode_name(name) or _says_unfinished(name)
    return not ours and not name.startswith(".") and name.casefold() not in _HARMLESS_NAMES and not entry.is_dir()


def _root_around(root: Path) -> Path | None:
    """The root whose data/, buffer/, models/ or logs/ somebody has named instead of it."""
    for above in (root.parent, root.parent.parent):
        around = Paths(above)
        if root in (around.data, around.buffer, around.archive, around.models, around.logs) and around.data.is_dir():
            return above
    return None


def _strays(paths: Paths) -> Iterator[tuple[str, int]]:
    """Folders below the root that hold episodes, and in which nobody looks for any; and how many files lie there."""
    known = {paths.archive, paths.models, paths.logs, paths.game_voice, paths.replay_results}
    left = _LOOKED_AT
    folders = [(paths.root, 0)]
    while folders and left > 0:
        folder, depth = folders.pop()
        found = []
        for entry in _entries(folder):
            left -= 1
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                if path not in known and depth < _DEEPEST and not entry.name.startswith((".", "__")):
                    folders.append((path, depth + 1))
            elif folder != paths.buffer and buffer.is_episode_name(entry.name):
                found.append(path)
        if found and _is_episode(max(found)):
            yield str(folder), len(found)


def _is_episode(path: Path) -> bool:
    """Whether a file that lies in a strange place is an episode; other programs write .npz files too."""
    try:
        episode_file.read(path.read_bytes())
    except (EpisodeError, OSError):
        return False
    return True


def _other_roots(paths: Paths) -> Iterator[tuple[str, int]]:
    here = Path.cwd()
    for root in dict.fromkeys([default_root(), here, here / "local_training", paths.root.parent]):
        other = Paths(root)
        if root.resolve() != paths.root.resolve():
            count = sum(buffer.is_episode_name(e.name) for folder in (other.buffer, other.archive) for e in _entries(folder))
            if count:
                yield str(root), count


def _is_refused(path: Path) -> bool:
    """Whether it is there and can't be read; a learner at work may have moved it on meanwhile."""
    return not os.access(path, os.R_OK) and os.path.lexists(path)


def _not_writable(paths: Paths) -> Iterator[str]:
    files = (paths.ledger, paths.learner_lock, paths.worker_lock, paths.model, paths.status, paths.training_log)
    for path in (*paths.folders, *files):
        mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
        if path.exists() and not os.access(path, mode):
            yield f"{path} ({_owner(path)})"


def _owner(path: Path) -> str:
    try:
        return f"belongs to {path.owner()}"
    except (OSError, KeyError, NotImplementedError):
        return "belongs to somebody else"


def _newest(paths: Paths) -> tuple[str, float] | None:
    found = []
    for path in (paths.model, paths.ledger, paths.status, paths.training_log):
        try:
            found.append((str(path), os.stat(path).st_mtime))
        except OSError:
            continue
    return max(found, key=lambda item: item[1], default=None)
