"""Train the archive again: python tools/rebuild_model.py --help

Without options it proves that the model follows from the ledger and the archive, bit for bit. With --without and --relabel it
removes the effect of episodes that should not have been trained on, or of wrong rewards.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from background_training import command_lines
from background_training.commands import common
from background_training.errors import EpisodeError, LedgerError, SettingsError
from background_training.ipc import process_limits
from background_training.paths import Paths
from background_training.storage import atomic_files
from background_training.storage.file_lock import both_locks

if TYPE_CHECKING:
    from background_training.learner.checkpoint import Checkpoint
    from background_training.learner.replay_log import Change
    from background_training.storage.model_store import Model

LAST_BITS = 1e-4
"""Differences of weights below this are those of sums in another order, or of exp and tanh, grown over some versions."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 1 when the rebuilt model differs from the present one."""
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("rebuild"),
        description="Train the archived episodes again in the ledger's order. Without options: compare with the present model.",
    )
    common.add_common(parser)
    parser.add_argument("--to", type=int, metavar="VERSION", help="stop at this version")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="PATTERN", help='leave out episodes whose names match, e.g. "game_20260125_*"'
    )
    parser.add_argument(
        "--relabel",
        metavar="FILE:FUNCTION",
        help="give episodes other rewards: a function of the episode's name and a dict of its arrays that returns [T] rewards",
    )
    where = "where to write the model (models/rebuilt_model.npz)"
    parser.add_argument("--output", type=common.output_file, metavar="FILE", help=where)
    parser.add_argument("--publish", action="store_true", help="publish it to the games as the next version")
    return parser


def _run(options: argparse.Namespace) -> int:
    # Before NumPy is loaded: the bits of the model depend on the number of its threads.
    process_limits.limit_blas_threads()
    settings = common.settings_of(options)
    paths, durable = settings.paths, settings.learner.durable
    common.check_there_is_a_run(paths)
    with both_locks(paths):
        rebuilt = _rebuilt(paths, options)
        output = options.output or paths.models / "rebuilt_model.npz"
        atomic_files.write_atomically(output, rebuilt.data, durable=durable)
        common.answer(f"[OK] Rebuilt up to version {rebuilt.version}: {output}")
        if options.publish:
            from background_training.learner import publish

            published = publish.publish(paths, rebuilt, "rebuilt from the archive", durable=durable)
            common.answer(f"[OK] Published as version {published.version}: {paths.model}")
            return 0
    altered = options.without or options.relabel is not None or options.to is not None
    return 0 if altered else _compared(paths, rebuilt)


def _rebuilt(paths: Paths, options: argparse.Namespace) -> Checkpoint:
    from background_training.learner import replay_log
    from background_training.records import ledger_lines

    begin = replay_log.replay_start(paths, list(ledger_lines.read_lines(paths.ledger)), options.to)
    if not begin.all_of_it:
        common.answer(
            f"[INFO] Retention has deleted episodes of version {begin.version} or before; training again what came after "
            f"version {begin.version}, which is kept in {paths.history}"
        )
    if options.without or options.relabel is not None:
        made = replay_log.replay_changed(paths, begin.groups, _change(options), begin.start)
    else:
        made = replay_log.replay(paths, begin.groups, begin.start, begin.before)
    newest = None
    progress = common.ProgressBar("versions")
    try:
        for done, newest in enumerate(made, 1):  # noqa: B007  # the last one is the result
            progress.show(done, len(begin.groups))
    finally:
        progress.end()
    if newest is None:
        raise LedgerError(str(paths.ledger), "no trained episode is left to train on", "Nothing was written")
    return newest


def _change(options: argparse.Namespace) -> Change:
    """The change that --without and --relabel ask for."""
    from background_training.episodes import episode as episodes
    from background_training.episodes.episode import Episode

    relabel = None if options.relabel is None else _function(options.relabel)

    def change(line: Mapping[str, Any], episode: Episode) -> Episode | None:
        if any(fnmatch.fnmatchcase(line["name"], pattern) for pattern in options.without):
            return None
        if relabel is None:
            return episode
        try:
            return episodes.with_rewards(episode, relabel(line["name"], episode.as_arrays()))
        except Exception as error:
            kind = "" if isinstance(error, EpisodeError) else f"{type(error).__name__}: "
            raise SettingsError(
                "--relabel", options.relabel, f"it failed on {line['name']!a}: {kind}{error}", "command line"
            ) from error

    return change


def _function(text: str) -> Callable[[str, dict[str, Any]], Any]:
    """The user's function out of the user's file.

    Raises:
        SettingsError: there is no such file or function.
    """
    file, _, name = text.rpartition(":")
    spec = importlib.util.spec_from_file_location("relabelling", file) if file else None
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise SettingsError("--relabel", text, "FILE:FUNCTION is needed, e.g. rewards.py:only_wins", "command line")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise SettingsError("--relabel", text, f"a function {name} in {file} is needed", "command line")
    return function  # type: ignore[no-any-return]


def _distance(there: Model, rebuilt: Model) -> str:
    """How far two models are apart, in words. The distance hints at the cause, as earlier versions leave no fingerprint."""
    import numpy as np

    from background_training.storage.model_store import POLICY_KEYS

    pairs = [(there.arrays[name], rebuilt.arrays[name]) for name in POLICY_KEYS]
    if any(one.shape != other.shape for one, other in pairs):
        return "the networks are of different sizes"
    largest = max(float(np.abs(one - other).max()) for one, other in pairs)
    cause = "; an earlier version was probably trained in another environment, or by an earlier state of this program"
    return f"the weights differ by {largest:.1e} at most{cause if 0 < largest < LAST_BITS else ''}"


def _compared(paths: Paths, rebuilt: Checkpoint) -> int:
    from background_training.learner.checkpoint import BASE
    from background_training.storage import model_store

    present = model_store.read_bytes(paths.model)
    if present == rebuilt.data:
        common.answer(f"[OK] Identical, bit for bit, with {paths.model}")
        return 0
    there = model_store.unpack(present, str(paths.model))
    if there.manifest.get("commit", {}).get("kind", BASE) == BASE:
        common.answer(f"[OK] {paths.model} was published as version {there.version}, and has not been trained since")
        return 0
    if there.version != rebuilt.version:
        why = f"it is version {there.version}"
    elif there.manifest.get("numeric_fingerprint") != rebuilt.manifest["numeric_fingerprint"]:
        there_and_here = there.manifest.get("numeric_fingerprint"), rebuilt.manifest["numeric_fingerprint"]
        why = "it was trained in another environment, whose last bits differ ({}; here {})".format(*there_and_here)
    else:
        why = f"training the archive again gives other weights; {_distance(there, model_store.unpack(rebuilt.data, 'rebuilt'))}"
    print(f"[WARNING] {paths.model} differs: {why}", file=sys.stderr)
    return 1
