"""Every exception that this project raises on purpose, as one tree.

Each is also a subclass of the fitting builtin, keeps its facts as fields, and survives pickling: the constructor's
positional arguments stay in `args`, and `__str__` builds the message.
"""

from __future__ import annotations

from background_training import command_lines


class BackgroundTrainingError(Exception):
    """Base of all errors below; `exit_code` is the exit code of a command that fails with it."""

    exit_code = 1


class SettingsError(BackgroundTrainingError, ValueError):
    """A setting is unknown, or its value is not allowed."""

    exit_code = 2

    def __init__(self, key: str, value: object, needed: str, source: str) -> None:
        super().__init__(key, value, needed, source)
        self.key = key
        self.value = value
        self.needed = needed
        self.source = source

    def __str__(self) -> str:
        return f"{self.source}: {self.key} is {self.value!r}; {self.needed}"


class UnusableDataError(BackgroundTrainingError, ValueError):
    """Data from outside are unusable: a short fixed word for counting, what was found, what is needed."""

    def __init__(self, reason: str, found: str, needed: str) -> None:
        super().__init__(reason, found, needed)
        self.reason = reason
        self.found = found
        self.needed = needed

    def __str__(self) -> str:
        return f"{self.found}; {self.needed}"


class NpzError(UnusableDataError):
    """Bytes are not a valid .npz archive of plain arrays, or would take too much memory.

    `reason` is a short fixed word; "unfinished" means that the end of the archive is missing, as in a file that
    is still being written.
    """


class EpisodeError(UnusableDataError):
    """An episode or an episode file is unusable.

    `reason` is a short fixed word for counting ("not-a-zip", "not-finite", "wrong-width", ...); `found` and
    `needed` form the message.
    """


class ModelError(BackgroundTrainingError, ValueError):
    """A model file exists but is unusable."""

    def __init__(self, file: str, found: str, needed: str) -> None:
        super().__init__(file, found, needed)
        self.file = file
        self.found = found
        self.needed = needed

    def __str__(self) -> str:
        return f"{self.file}: {self.found}; {self.needed}"


class ModelMissingError(BackgroundTrainingError, FileNotFoundError):
    """There is no model file yet."""

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.file = file

    def __str__(self) -> str:
        return f"{self.file}: no model is there yet"


class LedgerError(BackgroundTrainingError, ValueError):
    """Ledger and model contradict each other, or an episode that recovery needs is missing."""

    def __init__(self, file: str, found: str, remedy: str) -> None:
        super().__init__(file, found, remedy)
        self.file = file
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.file}: {self.found}. {self.remedy}"


class AnotherLearnerError(BackgroundTrainingError, RuntimeError):
    """Another learner is running in the same root."""

    exit_code = 3

    def __init__(self, root: str, owner: str) -> None:
        super().__init__(root, owner)
        self.root = root
        self.owner = owner

    def __str__(self) -> str:
        return f"another learner is at work in {self.root}: {self.owner}. Stop it first, or use another --root"


class LockUnavailableError(BackgroundTrainingError, OSError):
    """The folder can't be locked, so a second learner could not be excluded."""

    exit_code = 4

    def __init__(self, file: str, cause: str) -> None:
        super().__init__(file, cause)
        self.file = file
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.file} can't be locked ({self.cause}); a folder on a local disk is needed"


class MachineError(BackgroundTrainingError, OSError):
    """The operating system failed a command: disk full, no permission, input/output error."""

    exit_code = 5

    def __init__(self, doing: str, cause: str) -> None:
        super().__init__(doing, cause)
        self.doing = doing
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.doing}: {self.cause}"


class PausedError(BackgroundTrainingError, RuntimeError):
    """The user has paused the root."""

    exit_code = 6

    def __init__(self, root: str, since: str) -> None:
        super().__init__(root, since)
        self.root = root
        self.since = since

    def __str__(self) -> str:
        command = f"{command_lines.command('monitor', self.root)} --resume"
        return f"{self.root} is paused ({self.since}), so nothing is trained; its episodes wait. To go on: {command}"


class RunStateError(BackgroundTrainingError, ValueError):
    """A run-state file is invalid."""

    def __init__(self, file: str, found: str) -> None:
        super().__init__(file, found)
        self.file = file
        self.found = found

    def __str__(self) -> str:
        return f"{self.file} is not a valid run-state file ({self.found}). Move it away, or start a new run without --resume"


class GameFailedError(BackgroundTrainingError, RuntimeError):
    """A game kept failing for the same reason, so the run was ended."""

    def __init__(self, games: int, reason: str, log: str, resume: str) -> None:
        super().__init__(games, reason, log, resume)
        self.games = games
        self.reason = reason
        self.log = log
        self.resume = resume

    def __str__(self) -> str:
        count = f"{self.games} games in a row were" if self.games > 1 else "the only game was"
        ended = f"{count} lost, so the run has ended. The last one: {self.reason}"
        return f"{ended}. Tracebacks: {self.log}. When the cause is mended, continue with: {self.resume}"


class GameRaisedError(BackgroundTrainingError, RuntimeError):
    """A game raised while it was played for an evaluation, so there is no result; `place` is the traceback's last line."""

    def __init__(self, game: str, seed: int, reason: str, place: str) -> None:
        super().__init__(game, seed, reason, place)
        self.game = game
        self.seed = seed
        self.reason = reason
        self.place = place

    def __str__(self) -> str:
        where = f" (raised in {self.place})" if self.place else ""
        return f"{self.game} failed in the game with seed {self.seed}: {self.reason}{where}. Nothing was recorded"


class WorkerError(BackgroundTrainingError, RuntimeError):
    """A worker process died or timed out."""


class ReplayError(BackgroundTrainingError, ValueError):
    """A replay can't be read; `reason` is a short fixed word for counting, `found` the message."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(reason, found)
        self.reason = reason
        self.found = found

    def __str__(self) -> str:
        return f"{self.reason}: {self.found}"


class RestartBudgetError(WorkerError):
    """An env keeps failing, and its restarts, or those of all envs, are spent."""

    def __init__(self, env: int, restarts: int, reason: str, details: str) -> None:
        super().__init__(env, restarts, reason, details)
        self.env = env
        self.restarts = restarts
        self.reason = reason
        self.details = details

    def __str__(self) -> str:
        text = f"env {self.env} failed again after {self.restarts} restarts: {self.reason}; the restart budget is spent"
        return f"{text}. The worker's traceback or stderr:\n{self.details}" if self.details else text


class RepeatedFaultError(RestartBudgetError):
    """An env can't be built or reset: the same exception was raised at the same place several times, with no step between."""

    def __str__(self) -> str:
        text = f"env {self.env} can't be built or reset: {self.reason}, from the same place each time and without a step between"
        return f"{text}; no further restart is tried (same_fault_limit). The worker's traceback:\n{self.details}"


class EnvCallError(WorkerError):
    """A worker was lost while it answered `call`, `get_attr`, `set_attr` or `render`; it is being replaced."""

    def __init__(self, name: str, env: int, reason: str) -> None:
        super().__init__(name, env, reason)
        self.name = name
        self.env = env
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} has no answer from env {self.env}: {self.reason}. Its worker is being replaced; call again"


class GarbledMessageError(WorkerError):
    """Bytes came through a worker's link that are no message of it."""


class GameError(WorkerError):
    """A game raised in each of several attempts."""

    def __init__(self, where: str, attempts: int, reason: str) -> None:
        super().__init__(where, attempts, reason)
        self.where = where
        self.attempts = attempts
        self.reason = reason

    def __str__(self) -> str:
        return f"the game's {self.where} failed {self.attempts} times in a row; the last time with {self.reason}"
