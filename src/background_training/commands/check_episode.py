"""Whether a learner accepts episode files, and why not; without a root: background-training check-episode --help"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from background_training import command_lines, printable, settings_file
from background_training.commands import common
from background_training.episodes import data_checks, episode_file
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError
from background_training.storage import atomic_files


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("check-episode"),
        description="Read episode files as the learner does, and print whether it accepts them, and why not. Mistakes that show "
        "in several valid files (rewards that never vary, states out of scale) are named too. No root is needed, and nothing "
        "is changed. The exit code is 1 if a file is rejected or a mistake is found.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="episode files, or folders of them")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    return parser


def _run(options: argparse.Namespace) -> int:
    limits = settings_file.load(environment=os.environ).limits
    accepted: list[Episode] = []
    rejected = 0
    for path in _files(options.files):
        name = printable.visible(str(path))
        try:
            episode = episode_file.read(atomic_files.read_regular_file(path, limits.max_memory_bytes), limits)
        except EpisodeError as error:
            reason = f"{error.reason}: {error}"
        except OverflowError as error:
            reason = f"too-large: it is {error} long; at most {limits.max_memory_bytes:,} bytes are read"
        except OSError as error:
            reason = f"it can't be read: {common.reason_of(error)}"
        else:
            accepted.append(episode)
            common.answer(f"[OK] {name}: accepted, {_described(episode)}")
            continue
        rejected += 1
        common.answer(f"[PROBLEM] {name}: rejected, {reason}")
    mistakes = [f"[PROBLEM] {warning.found}. {warning.cure}" for warning in data_checks.find(accepted)] + _contradictions(
        accepted
    )
    counts = f"{len(accepted)} accepted, {rejected} rejected"
    common.answer("\n".join([*mistakes, *(f"[NOTE] {note}" for note in _notes(accepted)), counts]))
    return 1 if rejected or mistakes else 0


def _files(given: list[Path]) -> list[Path]:
    """The files, with those of folders in the order of their names, and of patterns, which Windows leaves to the command."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += sorted(path.glob("*.npz"))
        elif "*" in path.name and not path.exists():
            found += sorted(path.parent.glob(path.name))
        else:
            found.append(path)
    return found


def _described(episode: Episode) -> str:
    actions = episode.action_space.words if episode.action_space is not None else f"actions 0 to {int(episode.actions.max())}"
    there = [name for name in ("log_probs", "action_mask", "final_state") if getattr(episode, name) is not None]
    there += [name for name in ("policy_version", "episode_id") if getattr(episode, name) not in (None, "")]
    end = "terminated" if episode.terminated else "not terminated"
    optional = f"with {', '.join(there)}" if there else "without optional arrays"
    return (
        f"{episode.steps} steps, states of {episode.state_width}, {actions}, return {episode.episode_return:g}, {end}, {optional}"
    )


def _contradictions(episodes: list[Episode]) -> list[str]:
    """Files that are valid each, of which one root accepts only a part."""
    found = []
    widths = sorted({episode.state_width for episode in episodes})
    if len(widths) > 1:
        found.append(f"states of {', '.join(map(str, widths))} numbers. A root accepts one width: that of its first episode")
    spaces = {episode.action_space.words for episode in episodes if episode.action_space is not None}
    if len(spaces) > 1:
        found.append(f"different actions: {'; '.join(sorted(spaces))}. A root accepts one kind; declare the same in each file")
    ids = [episode.episode_id for episode in episodes if episode.episode_id]
    if len(set(ids)) < len(ids):
        found.append(
            f"{len(ids) - len(set(ids))} files repeat the episode_id of another. They count as duplicates: give each game its own"
        )
    return [f"[PROBLEM] {one}" for one in found]


def _notes(episodes: list[Episode]) -> list[str]:
    """What the learner could use, and does not find."""
    notes = []
    if any(episode.log_probs is None for episode in episodes):
        notes.append("Without log_probs the learner can't correct for games of older policies, and learns more slowly")
    if any(not episode.terminated and episode.final_state is None for episode in episodes):
        notes.append("A game that was cut off needs final_state, so that its last step is valued as unfinished")
    if any(not episode.episode_id for episode in episodes):
        notes.append("Without episode_id only files of the same bytes count as duplicates")
    undeclared = [episode for episode in episodes if episode.action_space is None]
    lowest = min((int(episode.actions.min()) for episode in undeclared), default=0)
    if lowest > 0:
        notes.append(f"No action is below {lowest}; actions count from 0, so look whether the game counts from {lowest}")
    return notes
