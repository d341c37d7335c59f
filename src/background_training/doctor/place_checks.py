"""Mistakes of folders: the wrong one, one that can't be written, files that nobody will ever take. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from background_training.doctor.facts import Facts
from background_training.doctor.finding import Trouble
from background_training.monitor import words

_FUTURE_SECONDS = 60.0
_WINDOWS_PATH = 259
_LONGEST_OWN_NAME = 150
"""data/archive/duplicate/ and a name of ours with what is written beside it, while it is written."""


def nothing_here(facts: Facts) -> Trouble | None:
    """No game has ever delivered anything to this folder."""
    if facts.places.has_data or facts.places.inside is not None:
        return None
    what = "holds no data/" if facts.places.exists else "does not exist"
    cause = f"the root {facts.paths.root} {what}: no game and no learner has been here."
    if facts.places.other_roots:
        return Trouble(
            cause, f"Use one --root for game, learner and doctor; episodes lie in {_counts(facts.places.other_roots)}."
        )
    return Trouble(cause, "Start the game or the learner with this --root, or give the --root that they use.")


def part_of_a_root(facts: Facts) -> Trouble | None:
    """`--root` names data/ or the buffer instead of the folder that holds them."""
    around = facts.places.inside
    if around is None:
        return None
    cause = (
        f"{facts.paths.root} is a part of the root {around}: a learner here would look for a buffer inside the buffer's folders."
    )
    return Trouble(cause, f'Give --root "{around}" to game, learner and doctor.')


def episodes_elsewhere(facts: Facts) -> Trouble | None:
    """Episodes were written beside the buffer, or into a buffer inside the buffer."""
    if not facts.places.elsewhere or facts.places.inside is not None:
        return None
    cause = f"episodes lie in {_counts(facts.places.elsewhere)}, where no learner looks; it looks in {facts.paths.buffer} only."
    return Trouble(cause, "Move them there, and let the bot write there; RLAgent(root=...) wants the root, not the buffer.")


def episodes_in_another_root(facts: Facts) -> Trouble | None:
    """This root is empty, and one nearby is not."""
    if not facts.places.other_roots or not facts.places.has_data or facts.places.inside is not None:
        return None
    cause = f"no episode has come to {facts.paths.root} yet, but episodes lie in {_counts(facts.places.other_roots)}."
    return Trouble(cause, "Give the same --root (or LOCAL_TRAINING_ROOT) to game and learner.")


def foreign_names(facts: Facts) -> Trouble | None:
    """Files in the buffer do not end in .npz."""
    names = facts.places.foreign_names
    if not names:
        return None
    cause = f"nobody takes {_files(len(names))} in the buffer, such as {_named(names)}: the name has to end in .npz."
    return Trouble(cause, "Save episodes with numpy.savez under a name that ends in .npz; docs/file-formats.md shows how.")


def unfinished_files(facts: Facts) -> Trouble | None:
    """Files were begun and never got their final names."""
    names = facts.places.unfinished
    if not names:
        return None
    cause = f"{_files(len(names))} in the buffer, such as {_named(names)}, say by name 'still being written', for over a minute."
    cure = "The writer died, or never renames: write to .NAME.npz.part, close the file, then os.replace it to NAME.npz. "
    return Trouble(cause, cure + "What is whole can be renamed by hand.")


def not_writable(facts: Facts) -> Trouble | None:
    """The user of this process may not write what a learner has to write."""
    if in_the_way := facts.places.no_folders:
        cause = f"{_named(in_the_way)} is no folder, and the learner needs one there."
        return Trouble(cause, "Move it away: the learner makes the folders that it lacks.")
    denied = facts.places.not_writable
    refused = facts.machine.probe.trouble
    if not denied and not refused:
        return None
    what = f"{_named(denied)} can't be written by this user" if denied else f"writing into {facts.paths.data} failed: {refused}"
    more = f" ({len(denied) - 1} more)" if len(denied) > 1 else ""
    cure = "Run game and learner as the folder's owner, or change owner or permissions; "
    return Trouble(f"{what}{more}.", cure + "a folder that was once used with sudo or by an administrator is the usual reason.")


def unreadable_episodes(facts: Facts) -> Trouble | None:
    """Episodes wait that this user may not read."""
    names = facts.places.unreadable
    if not names:
        return None
    cause = f"{_files(len(names))} in the buffer, such as {_named(names)}, can't be read by this user; they wait for ever."
    return Trouble(cause, "Let the bot write files that the learner's user may read (umask 022), or run both as one user.")


def files_from_the_future(facts: Facts) -> Trouble | None:
    """Waiting episodes bear times that have not come yet."""
    late = [(name, seconds) for name, seconds in facts.places.future if seconds > _FUTURE_SECONDS]
    if not late:
        return None
    name, seconds = max(late, key=lambda item: item[1])
    cause = (
        f"{_files(len(late))} in the buffer come from the future, {_named([name])} by {words.duration(seconds)}: clocks differ."
    )
    return Trouble(cause, "Set the clock of the machine that plays, or that learns; until then no such file is ever too old.")


def clock_behind(facts: Facts) -> Trouble | None:
    """The machine's clock stands before the time at which the learner wrote last."""
    newest = facts.places.newest
    if newest is None or newest[1] - facts.machine.now < _FUTURE_SECONDS:
        return None
    path, moment = newest
    cause = f"this machine's clock says {words.moment(facts.machine.now)}, and {path} was written at {words.moment(moment)}."
    return Trouble(cause, "Set the clock (switch its synchronisation on): with a wrong one, fresh episodes may count as too old.")


def path_too_long(facts: Facts) -> Trouble | None:
    """Windows refuses paths of more than 260 characters unless told otherwise."""
    machine = facts.machine
    longest = len(str(facts.paths.root)) + max(_LONGEST_OWN_NAME, 40 + facts.places.longest_name)
    if machine.platform != "win32" or machine.long_paths or longest <= _WINDOWS_PATH:
        return None
    cause = f"paths below {facts.paths.root} get {longest} characters long, and Windows allows {_WINDOWS_PATH} here."
    return Trouble(cause, "Use a shorter --root, such as C:\\bot, or switch on 'Enable Win32 long paths'.")


def _counts(folders: Sequence[tuple[str, int]]) -> str:
    shown = [f"{words.visible(folder)} ({_files(count)})" for folder, count in folders[:3]]
    return " and ".join(shown) + (f" and {len(folders) - 3} more folders" if len(folders) > 3 else "")


def _files(count: int) -> str:
    return words.plural(count, "file")


def _named(names: Sequence[str]) -> str:
    return words.visible(names[0], 200)
