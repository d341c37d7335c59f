"""Checks of the root's folders: the wrong one, not writable, files that no learner will take; and the readings they need."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from background_training.doctor.facts import DoctorFacts, FolderReadings
from background_training.doctor.finding import Trouble
from background_training.episodes import episode_file
from background_training.errors import EpisodeError
from background_training.monitor import humanize
from background_training.paths import EPISODE_SUFFIX, PARTIAL_SUFFIX, Paths, default_root, is_episode_name

STILL_SECONDS = 60.0
_LOOKED_AT = 5000
_DEEPEST = 5
_HARMLESS_NAMES = ("thumbs.db", "desktop.ini", ".ds_store", ".gitkeep", ".gitignore", "readme.md", "readme.txt")


def look(paths: Paths, now: float) -> FolderReadings:
    entries = list(_entries(paths.buffer))
    names = [entry.name for entry in entries if is_episode_name(entry.name)]
    ages = {entry.name: now - entry.stat(follow_symlinks=False).st_mtime for entry in _still_there(entries)}
    waiting = [name for name in names if name in ages]
    fresh = not waiting and not paths.ledger.exists()
    return FolderReadings(
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
    ours = is_episode_name(name) or _says_unfinished(name)
    return not ours and not name.startswith(".") and name.casefold() not in _HARMLESS_NAMES and not entry.is_dir()


def _root_around(root: Path) -> Path | None:
    """The root of which this folder is data/, buffer/, models/ or logs/."""
    for above in (root.parent, root.parent.parent):
        around = Paths(above)
        if root in (around.data, around.buffer, around.archive, around.models, around.logs) and around.data.is_dir():
            return above
    return None


def _strays(paths: Paths) -> Iterator[tuple[str, int]]:
    """Folders below the root with episodes that no learner reads, and the number of files."""
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
            elif folder != paths.buffer and is_episode_name(entry.name):
                found.append(path)
        if found and _is_episode(max(found)):
            yield str(folder), len(found)


def _is_episode(path: Path) -> bool:
    """Whether a file outside the buffer is an episode; other programs write .npz files too."""
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
            count = sum(is_episode_name(e.name) for folder in (other.buffer, other.archive) for e in _entries(folder))
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
        return "belongs to another user"


def _newest(paths: Paths) -> tuple[str, float] | None:
    found = []
    for path in (paths.model, paths.ledger, paths.status, paths.training_log):
        try:
            found.append((str(path), os.stat(path).st_mtime))
        except OSError:
            continue
    return max(found, key=lambda item: item[1], default=None)


_FUTURE_SECONDS = 60.0
_WINDOWS_PATH = 259
_LONGEST_OWN_NAME = 150
"""data/archive/duplicate/ and a name of ours with what is written beside it, while it is written."""


def nothing_here(facts: DoctorFacts) -> Trouble | None:
    """No game has ever written an episode here."""
    if facts.places.has_data or facts.places.inside is not None:
        return None
    what = "holds no data/" if facts.places.exists else "does not exist"
    cause = f"the root {facts.paths.root} {what}: no game and no learner has been here."
    if facts.places.other_roots:
        return Trouble(
            cause, f"Use one --root for game, learner and doctor; episodes lie in {_counts(facts.places.other_roots)}."
        )
    return Trouble(cause, "Start the game or the learner with this --root, or give the --root that they use.")


def part_of_a_root(facts: DoctorFacts) -> Trouble | None:
    """`--root` names data/ or the buffer instead of the folder that holds them."""
    around = facts.places.inside
    if around is None:
        return None
    cause = (
        f"{facts.paths.root} is a part of the root {around}: a learner here would look for a buffer inside the buffer's folders."
    )
    return Trouble(cause, f'Give --root "{around}" to game, learner and doctor.')


def episodes_elsewhere(facts: DoctorFacts) -> Trouble | None:
    """Episodes were written beside the buffer, or into a buffer inside the buffer."""
    if not facts.places.elsewhere or facts.places.inside is not None:
        return None
    cause = f"episodes are in {_counts(facts.places.elsewhere)}, where no learner looks; it looks in {facts.paths.buffer} only."
    return Trouble(cause, "Move them there, and let the bot write there; RLAgent(root=...) takes the root, not the buffer.")


def episodes_in_another_root(facts: DoctorFacts) -> Trouble | None:
    """This root is empty, and one nearby is not."""
    if not facts.places.other_roots or not facts.places.has_data or facts.places.inside is not None:
        return None
    cause = f"no episode has come to {facts.paths.root} yet, but there are episodes in {_counts(facts.places.other_roots)}."
    return Trouble(cause, "Give the same --root (or LOCAL_TRAINING_ROOT) to game and learner.")


def foreign_names(facts: DoctorFacts) -> Trouble | None:
    """Files in the buffer do not end in .npz."""
    names = facts.places.foreign_names
    if not names:
        return None
    cause = f"no learner takes {_files(len(names))} in the buffer, such as {_named(names)}: the name has to end in .npz."
    return Trouble(
        cause, "Save episodes with numpy.savez under a name that ends in .npz; docs/reference/episode-format.md shows how."
    )


def unfinished_files(facts: DoctorFacts) -> Trouble | None:
    """Files were never renamed to their final names."""
    names = facts.places.unfinished
    if not names:
        return None
    cause = f"{_files(len(names))} in the buffer, such as {_named(names)}, are named as unfinished for over a minute."
    cure = "The writer died, or never renames: write to .NAME.npz.part, close the file, then os.replace it to NAME.npz. "
    return Trouble(cause, cure + "What is whole can be renamed by hand.")


def not_writable(facts: DoctorFacts) -> Trouble | None:
    """The user of this process may not write what a learner has to write."""
    if in_the_way := facts.places.no_folders:
        cause = f"{_named(in_the_way)} is not a folder, and the learner needs one there."
        return Trouble(cause, "Move it away: the learner makes the folders that it lacks.")
    denied = facts.places.not_writable
    refused = facts.machine.probe.trouble
    if not denied and not refused:
        return None
    what = f"{_named(denied)} can't be written by this user" if denied else f"writing into {facts.paths.data} failed: {refused}"
    more = f" ({len(denied) - 1} more)" if len(denied) > 1 else ""
    cure = "Run game and learner as the folder's owner, or change owner or permissions; "
    return Trouble(f"{what}{more}.", cure + "a folder that was once used with sudo or by an administrator is the usual reason.")


def unreadable_episodes(facts: DoctorFacts) -> Trouble | None:
    """Episodes wait that this user may not read."""
    names = facts.places.unreadable
    if not names:
        return None
    cause = f"{_files(len(names))} in the buffer, such as {_named(names)}, can't be read by this user; they wait forever."
    return Trouble(cause, "Let the bot write files that the learner's user may read (umask 022), or run both as one user.")


def files_from_the_future(facts: DoctorFacts) -> Trouble | None:
    """Waiting episodes have modification times in the future."""
    late = [(name, seconds) for name, seconds in facts.places.future if seconds > _FUTURE_SECONDS]
    if not late:
        return None
    name, seconds = max(late, key=lambda item: item[1])
    cause = f"{_files(len(late))} in the buffer have modification times in the future, {_named([name])} by "
    cause += f"{humanize.duration(seconds)}: clocks differ."
    return Trouble(cause, "Set the clock of the machine that plays, or that learns; until then such files never become stale.")


def clock_behind(facts: DoctorFacts) -> Trouble | None:
    """The machine's clock stands before the time at which the learner wrote last."""
    newest = facts.places.newest
    if newest is None or newest[1] - facts.machine.now < _FUTURE_SECONDS:
        return None
    path, moment = newest
    cause = (
        f"this machine's clock says {humanize.moment(facts.machine.now)}, and {path} was written at {humanize.moment(moment)}."
    )
    return Trouble(cause, "Set the clock (switch its synchronisation on): with a wrong one, fresh episodes may count as stale.")


def path_too_long(facts: DoctorFacts) -> Trouble | None:
    """Windows refuses paths of more than 260 characters unless told otherwise."""
    machine = facts.machine
    longest = len(str(facts.paths.root)) + max(_LONGEST_OWN_NAME, 40 + facts.places.longest_name)
    if machine.platform != "win32" or machine.long_paths or longest <= _WINDOWS_PATH:
        return None
    cause = f"paths below {facts.paths.root} get {longest} characters long, and Windows allows {_WINDOWS_PATH} here."
    return Trouble(cause, "Use a shorter --root, such as C:\\bot, or switch on 'Enable Win32 long paths'.")


def _counts(folders: Sequence[tuple[str, int]]) -> str:
    shown = [f"{humanize.visible(folder)} ({_files(count)})" for folder, count in folders[:3]]
    return " and ".join(shown) + (f" and {len(folders) - 3} more folders" if len(folders) > 3 else "")


def _files(count: int) -> str:
    return humanize.plural(count, "file")


def _named(names: Sequence[str]) -> str:
    return humanize.visible(names[0], 200)
