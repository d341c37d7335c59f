"""Form batches of the waiting files, train, commit: everything that changes a root, in the one process that may do so."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from background_training.algo import ppo_update
from background_training.episodes import alignment, buffer
from background_training.episodes.buffer import DUPLICATE
from background_training.errors import EpisodeError, ModelError
from background_training.ipc.json_lines import Send
from background_training.learner import checkpoint, publish, recovery, retention
from background_training.learner.checkpoint import Checkpoint
from background_training.learner.counters import BatchResult
from background_training.learner.finalize import Finalizer
from background_training.learner.metrics_writer import MetricsHistory
from background_training.learner.regression_guard import RegressionGuard
from background_training.learner.triage import (
    Accepted,
    AlreadyTrained,
    Excluded,
    ModelFacts,
    NeedsWidening,
    Triage,
    duplicate,
    fitted,
)
from background_training.paths import Paths
from background_training.printable import visible
from background_training.records.ledger import Ledger
from background_training.settings import Settings
from background_training.spaces import ActionSpace
from background_training.spaces.layout import ModelLayout
from background_training.storage import model_store
from background_training.storage.atomic_files import signature
from background_training.storage.file_lock import RootLock

_BACKLOG = 5
"""This many batches of short episodes become one in a backlog."""
_BACKLOG_BYTES = 32_000_000
"""Largest total size of their files, as wide states take memory and time."""


@dataclass(frozen=True)
class Precautions:
    """Protection against files that kill the process which works on them, and against a second learner in the root.

    before_reading: called with each file's name before it is read, and with "" after the last one: a death from then on is
        not the fault of a single file.
    before_training: called with the names of a batch before it is trained on, and with none once it is committed.
    alone: names of files that are trained on in batches of one.
    lock: checked again before anything is changed. Otherwise, if the folder is deleted and made again in the middle of
        a batch, another learner may have locked the new one, and both would train on its files.
    """

    before_reading: Callable[[str], None]
    before_training: Callable[[Sequence[str]], None]
    alone: Collection[str] = ()
    lock: RootLock | None = None

    def check_lock(self) -> None:
        """Make sure that this process still holds the root's lock.

        Raises:
            MachineError: the folder has been deleted and made again since the lock was taken.
        """
        if self.lock is not None:
            self.lock.check()


NO_PRECAUTIONS = Precautions(lambda name: None, lambda names: None)


class Trainer:
    """Holds the newest checkpoint of one root and trains the next ones.

    It promises that every file is either trained on exactly once or moved out of the buffer with a reason, whatever kills it in
    between; see docs/explanation/commit-protocol.md. Its caller must hold the root's worker lock.
    """

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        ledger: Ledger,
        present: Checkpoint | None,
        triage: Triage,
        precautions: Precautions = NO_PRECAUTIONS,
    ) -> None:
        self.present = present
        self.ledger = ledger
        self.finalizer = Finalizer(paths, settings, ledger)
        self._paths = paths
        self._settings = settings
        self._triage = triage
        self._precautions = precautions
        self._signature = signature(paths.model)
        self._snapshot: deque[str] = deque()
        self.history = MetricsHistory(paths, ledger)
        self.history.open_at(present)
        self.guard = RegressionGuard(paths, settings, ledger)
        if present is not None:
            # An alarm that a process raised before it was killed, and did not act on.
            self._continue_from(self.guard.react_to_alarm(present))

    @property
    def actions(self) -> ActionSpace | None:
        """The action space of the present model; None before there is one."""
        return self.present.state.actions if self.present is not None else None

    def waiting(self) -> int:
        """Files of the present snapshot that have not been read yet."""
        return len(self._snapshot)

    def take_snapshot(self) -> int:
        """List the buffer again once the last snapshot is used up; return how many files are left in it."""
        if not self._snapshot:
            self._snapshot.extend(buffer.waiting_names(self._paths))
        return len(self._snapshot)

    def train_next_batch(self) -> BatchResult:
        """Take files from the snapshot until a batch is full or none is left, and train on it.

        Raises:
            OSError: the machine failed before the commit; nothing has been trained, and all files are still in the buffer.
            ModelError: another program has changed the model file; recover from what is there now.
        """
        started = _working_seconds()
        done = self._collect()
        done.stage_seconds["load"] = _working_seconds() - started
        if self.present is None and done.accepted:
            self._make_first_model(done)
        self._precautions.check_lock()
        if done.already_trained:
            departures = [item.departure() for item in done.already_trained]
            buffer.move_out(self._paths, departures, durable=self.finalizer.durable)
        self.finalizer.exclude(done.excluded)
        if done.accepted:
            self._precautions.before_training([item.name for item in done.accepted])
            done.trained = self._train(done)
            self._precautions.before_training(())
        settling = _working_seconds()
        done.seconds = settling - started
        if done.trained is not None:
            self.finalizer.after_commit(done.trained, done.accepted, done.seconds)
            done.stage_seconds["archive"] = _working_seconds() - settling
            self._continue_from(self.guard.after_batch(done.trained))
        if done.needs_widening is not None:
            done.notices.append(self._widen(done.needs_widening))
        return done

    def _widen(self, needs_widening: NeedsWidening) -> str:
        """Widen the model for an agent that has more features or actions; return the sentence for the log."""
        assert self.present is not None
        self._check_model()
        wanted = publish.Widening(needs_widening.features, needs_widening.actions)
        self.present, line = publish.commit_widened(self._paths, self._settings, self.ledger, self.present, wanted)
        self._signature = signature(self._paths.model)
        if line is not None:
            self.guard.add_published(line)
        sentence = f"Version {self.present.version} - {self.present.commit['reason']}, needed by {visible(needs_widening.name)}"
        self.finalizer.note(sentence)
        return sentence

    def _check_model(self) -> None:
        """Fence: refuse to commit over a model file that is not the one this process wrote or loaded.

        Raises:
            ModelError, MachineError: another program has changed it, or the folder was made again.
        """
        if signature(self._paths.model) != self._signature:
            raise ModelError(
                str(self._paths.model),
                "another program has changed it",
                "the batch is trained again from the model that is there now",
            )
        self._precautions.check_lock()

    def _continue_from(self, chosen: Checkpoint) -> None:
        """Continue from the version that the guard has chosen: nearly always the present one."""
        if chosen is not self.present:
            self.present = chosen
            self._signature = signature(self._paths.model)

    def _collect(self) -> BatchResult:
        """The next batch. In a backlog several batches share one commit.

        Whether there is a backlog depends on sound episodes only, so that a kill changes nothing: files that were excluded
        before it do not count.
        """
        size, most_steps = self._settings.learner.batch_size, self._settings.learner.backlog_steps
        if most_steps and len(self._snapshot) >= _BACKLOG * size:
            before = self._snapshot.copy()
            found = self._gather(_BACKLOG * size, most_steps)
            if len(found.accepted) == _BACKLOG * size and not _are_long(found.accepted, most_steps):
                return found
            self._snapshot = before
        return self._gather(size)

    def _gather(self, count: int, most_steps: int | None = None) -> BatchResult:
        """Take files from the snapshot until `count` are accepted; with `most_steps`, stop when these are not short."""
        done = BatchResult()
        model = self._facts()
        while self._snapshot and len(done.accepted) < count:
            ppo_update.yield_point()
            alone = self._snapshot[0] in self._precautions.alone
            if alone and done.accepted:
                break
            name = self._snapshot.popleft()
            self._precautions.before_reading(name)
            verdict = self._triage.verdict_on(name, model)
            if isinstance(verdict, Accepted):
                if model is not None:
                    model = dataclasses.replace(model, layout=alignment.named_by(model.layout, verdict.episode))
                twin = _twin(verdict, done.accepted)
                version = 1 + (model.version if model else 0)
                if twin is None:
                    done.accepted.append(verdict)
                else:
                    episode_id = "" if twin.sha256 == verdict.sha256 else verdict.episode.episode_id
                    former = twin.name, version
                    done.excluded.append(duplicate(verdict.name, verdict.sha256, verdict.signature, episode_id, former))
            elif isinstance(verdict, Excluded):
                done.excluded.append(verdict)
            elif isinstance(verdict, AlreadyTrained):
                done.already_trained.append(verdict)
            elif isinstance(verdict, NeedsWidening):
                self._snapshot.appendleft(name)
                done.needs_widening = None if done.accepted else verdict  # the accepted files are trained on first
                break
            elif verdict is not None:
                done.deferred.append(verdict.name)
                done.troubles += [verdict.trouble] if verdict.trouble else []
            if alone and done.accepted:
                break
            if most_steps is not None and _are_long(done.accepted, most_steps):
                break
        self._precautions.before_reading("")
        return done

    def _make_first_model(self, done: BatchResult) -> None:
        """Make the untrained model for the first batch.

        Files that do not fit it go back to the snapshot, to be judged after the commit, and so do duplicates, as they may be
        duplicates of such a file. If they were moved away before the commit, they would be missing after a kill: other files
        would take their places in the batch and influence the sizes of the model.
        """
        episodes = [item.episode for item in done.accepted]
        width, actions = checkpoint.sizes_of(episodes, self._settings.learning)
        self.present = checkpoint.untrained(width, actions, self._settings.learning)
        fitting: list[Accepted] = []
        layout = ModelLayout(width, actions)
        for item in done.accepted:
            fit = _fitted(item, ModelFacts(0, layout))
            if fit is not None:
                fitting.append(fit)
                layout = alignment.named_by(layout, fit.episode)
        if len(fitting) < len(done.accepted):
            again = {item.name for item in done.accepted} - {item.name for item in fitting}
            again |= {item.name for item in done.excluded if item.fate == DUPLICATE}
            done.excluded = [item for item in done.excluded if item.name not in again]
            self._snapshot.extendleft(sorted(again, key=os.fsencode, reverse=True))
        done.accepted = fitting

    def _train(self, done: BatchResult) -> Checkpoint:
        assert self.present is not None
        started, accepted = _working_seconds(), done.accepted
        lines = self.finalizer.ledger_lines(accepted)
        successor = checkpoint.successor(self.present, lines, [item.episode for item in accepted], self._settings.learning)
        self._check_model()
        trained = _working_seconds()
        model_store.commit(self._paths, successor.data, durable=self.finalizer.durable)
        done.stage_seconds |= {"train": trained - started, "commit": _working_seconds() - trained}
        self._signature = signature(self._paths.model)
        self.present = successor
        return successor

    def _facts(self) -> ModelFacts | None:
        if self.present is None:
            return None
        return ModelFacts(self.present.version, self.present.layout)


def _working_seconds() -> float:
    """A clock that stands still while the throttle holds this process."""
    return time.perf_counter() - ppo_update.rested_seconds()


def _fitted(item: Accepted, model: ModelFacts) -> Accepted | None:
    """The item with its episode in the model's order; None if it does not fit the model."""
    try:
        episode = fitted(item.episode, model)
    except EpisodeError:
        return None
    return item if episode is item.episode else dataclasses.replace(item, episode=episode, aligned=True)


def _are_long(batch: Sequence[Accepted], most_steps: int) -> bool:
    steps, size = sum(item.episode.steps for item in batch), sum(len(item.data) for item in batch)
    return steps > most_steps or size > _BACKLOG_BYTES


def _twin(item: Accepted, others: Iterable[Accepted]) -> Accepted | None:
    """The duplicate in the same batch, by bytes or by id; None if there is none."""
    for other in others:
        if other.sha256 == item.sha256 or (item.episode.episode_id and other.episode.episode_id == item.episode.episode_id):
            return other
    return None


def open_trainer(
    paths: Paths, settings: Settings, send: Send, *, patient: bool, precautions: Precautions = NO_PRECAUTIONS
) -> tuple[Trainer, Triage]:
    """Recover the root, apply the retention bounds, and return the trainer and its triage; the caller holds the worker lock.

    Raises:
        LedgerError: model and ledger contradict each other.
        OSError: the machine failed.
    """
    durable = settings.learner.durable
    recovery.make_skeleton(paths, durable=durable)
    buffer.sweep_partials(paths)
    buffer.put_all_back(paths)
    ledger = Ledger(paths.ledger, durable=durable, remember_newest=settings.learning.replay_episodes, index=paths.ledger_index)
    present = recovery.recover(paths, settings, ledger, lambda sentence: send("warning", sentence=sentence))
    ledger = retention.apply(paths, settings, ledger)
    triage = Triage(paths, settings, ledger, patient=patient)
    trainer = Trainer(paths, settings, ledger, present, triage, precautions)
    trainer.take_snapshot()  # so that the first status counts the waiting files; otherwise replay analysis would start first
    return trainer, triage
