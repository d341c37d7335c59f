"""Find a version of the model, wherever it still is, and publish it as the next one."""

from __future__ import annotations

import contextlib

from local_training import atomic_files, manifest, model_store
from local_training.errors import LedgerError, ModelError, ModelMissingError
from local_training.paths import Paths
from tools.learner import beginnings, fold, generation, reconstruction
from tools.learner import ledger as ledgers
from tools.learner.generation import Generation
from tools.learner.ledger import BY_HAND, Ledger


def version_of(paths: Paths, version: int) -> Generation:
    """A version of the model: the present one, one of the history, or made again from the archive.

    Raises:
        LedgerError: there never was such a version, or an episode it was trained on is missing.
    """
    for path in (paths.model, model_store.history_path(paths, version), *sorted(paths.history.glob("b*_*.npz"))):
        try:
            found = generation.load(model_store.read_bytes(path), str(path))
        except (ModelMissingError, ModelError):
            continue
        if found.version == version:
            return found
    lines = list(ledgers.read_lines(paths.ledger))
    known = [seq for seq, _ in ledgers.groups(lines) if seq <= version]
    if version in known:
        begin = beginnings.find(paths, lines, version, nearest=True)
        for made in fold.fold(paths, begin.groups, begin.start, begin.before):
            if made.version == version:
                return made
    sentence = f"it knows no version {version}" + (f"; the versions before are {known[0]} to {known[-1]}" if known else "")
    raise LedgerError(str(paths.ledger), sentence, "Nothing has been changed")


def publish(paths: Paths, model: Generation, reason: str, *, durable: bool) -> Generation:
    """Commit these weights as the version after all others; the history of training begins anew with it.

    The caller holds the learner's lock.
    """
    ledger = Ledger(paths.ledger, durable=durable)
    newest = ledger.newest_seq
    with contextlib.suppress(ModelMissingError, ModelError):  # what can't be read is about to be replaced
        present = generation.load(model_store.read_bytes(paths.model), str(paths.model))
        newest = max(newest, present.version)
        if present.version > ledger.last_seq:
            # The ledger has lost what it knew of that model's episodes; nobody will miss it once the model is replaced.
            reconstruction.remember_archive(paths, ledger, present.batch)
    return commit(paths, ledger, model, newest + 1, reason, BY_HAND, durable=durable)


def commit(paths: Paths, ledger: Ledger, model: Generation, version: int, reason: str, by: str, *, durable: bool) -> Generation:
    """Commit these weights as a new version, with a copy of them to go on from. The caller holds the lock."""
    published = generation.republished(model, version, reason, manifest.life_of(paths), ledger.last_seq, by)
    atomic_files.write_atomically(fold.base_path(paths, published.chain), published.data, durable=durable)
    model_store.commit(paths, published.data, durable=durable)
    return published
