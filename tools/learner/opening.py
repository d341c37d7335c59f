"""How a root is opened for training: folders made, leftovers swept, history agreed upon, bounds kept."""

from __future__ import annotations

from local_training import buffer_folder, leaving
from local_training.paths import Paths
from local_training.settings import Settings
from tools.learner import recovery, retention
from tools.learner.intake import Intake
from tools.learner.ledger import Ledger
from tools.learner.telling import Tell
from tools.learner.trainer import FEARLESS, Caution, Trainer


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
    buffer_folder.sweep_partials(paths)
    leaving.put_all_back(paths)
    ledger = Ledger(paths.ledger, durable=durable, remember_newest=settings.learning.replay_episodes, index=paths.ledger_index)
    present = recovery.recover(paths, settings, ledger, lambda sentence: tell("warning", sentence=sentence))
    ledger = retention.apply(paths, settings, ledger)
    intake = Intake(paths, settings, ledger, patient=patient)
    trainer = Trainer(paths, settings, ledger, present, intake, caution)
    trainer.look()  # the first status says what waits; otherwise other work would take it that nothing does
    return trainer, intake
