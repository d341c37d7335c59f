"""How a root is opened for training: folders made, leftovers swept, history agreed upon, bounds kept."""

from __future__ import annotations

from background_training.episodes import buffer, leaving
from background_training.ipc.channel import Tell
from background_training.learner import recovery, retention
from background_training.learner.trainer import FEARLESS, Caution, Trainer
from background_training.learner.triage import Intake
from background_training.paths import Paths
from background_training.records.ledger import Ledger
from background_training.settings import Settings


def open_trainer(
    paths: Paths, settings: Settings, tell: Tell, *, patient: bool, caution: Caution = FEARLESS
) -> tuple[Trainer, Intake]:
    """Recover the root and make the trainer that goes on from there; the caller holds the worker lock.

    Raises:
        LedgerError: model and ledger contradict each other.
        OSError: the machine failed.
    """
    durable = settings.learner.durable
    recovery.make_skeleton(paths, durable=durable)
    buffer.sweep_partials(paths)
    leaving.put_all_back(paths)
    ledger = Ledger(paths.ledger, durable=durable, remember_newest=settings.learning.replay_episodes, index=paths.ledger_index)
    present = recovery.recover(paths, settings, ledger, lambda sentence: tell("warning", sentence=sentence))
    ledger = retention.apply(paths, settings, ledger)
    intake = Intake(paths, settings, ledger, patient=patient)
    trainer = Trainer(paths, settings, ledger, present, intake, caution)
    trainer.look()  # the first status says what waits; otherwise other work would take it that nothing does
    return trainer, intake
