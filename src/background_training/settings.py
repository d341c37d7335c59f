"""Every setting with its default, its range and its sentence; frozen, and checked when made."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from background_training.errors import SettingsError
from background_training.paths import Paths, default_root


def setting(
    default: Any,
    sentence: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    environment: str = "",
) -> Any:
    """A dataclass field that knows its sentence, its range and the variable that may set it."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return field(default=default, metadata={"sentence": sentence, "environment": environment, **bounds})


def needed(setting_field: dataclasses.Field[Any]) -> str:
    """The range of a setting in words."""
    data = setting_field.metadata
    if data["choices"]:
        return "one of " + ", ".join(data["choices"]) + " is needed"
    words = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}
    text = words[type_name(setting_field)]
    for word, bound in (("at least", data["at_least"]), ("above", data["above"]), ("at most", data["at_most"])):
        if bound is not None:
            text += f", {word} {bound}"
    return text + " is needed"


def type_name(setting_field: dataclasses.Field[Any]) -> str:
    return str(setting_field.type)


def check(section: Any, source: str = "settings") -> None:
    """Refuse a section in which a value is of the wrong type or out of its range.

    Raises:
        SettingsError: names the key, the value, the range and the source.
    """
    for setting_field in dataclasses.fields(section):
        if not setting_field.metadata:
            continue
        value = getattr(section, setting_field.name)
        if not _allowed(value, setting_field):
            raise SettingsError(setting_field.name, value, needed(setting_field), source)


def _allowed(value: object, setting_field: dataclasses.Field[Any]) -> bool:
    data = setting_field.metadata
    wanted = type_name(setting_field)
    if wanted == "bool":
        return isinstance(value, bool)
    if wanted == "str":
        return isinstance(value, str) and (not data["choices"] or value in data["choices"])
    if isinstance(value, bool) or not isinstance(value, int if wanted == "int" else (int, float)):
        return False
    assert isinstance(value, (int, float))
    return (
        value == value  # not NaN
        and (data["at_least"] is None or value >= data["at_least"])
        and (data["above"] is None or value > data["above"])
        and (data["at_most"] is None or value <= data["at_most"])
    )


@dataclass(frozen=True)
class Section:
    """A group of settings; whoever makes one with a value out of its range is refused."""

    def __post_init__(self) -> None:
        check(self, type(self).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is most like it, if one is."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; the nearest is {found[0]}" if found else ""


@dataclass(frozen=True)
class GuardSettings(Section):
    """When the learner goes back to its best version by itself, because the games return worse than they did."""

    enabled: bool = setting(False, "Whether it does so at all.")
    evaluation_episodes: int = setting(
        20, "Episodes in a row whose mean return says how good their versions are.", at_least=5, at_most=10_000
    )
    tolerance: float = setting(
        0.5, "Share of what the best version has gained over the first one that may be lost.", above=0.0, at_most=1.0
    )
    false_alarm_episodes: float = setting(
        2000.0,
        "Episodes in which at most one false alarm is to be expected while the returns are within the tolerance.",
        above=1.0,
    )


@dataclass(frozen=True)
class LearningSettings(Section):
    """How a batch changes the policy."""

    learning_rate: float = setting(0.001, "Step size of Adam.", above=0.0, at_most=1.0)
    learning_rate_half_life: float = setting(
        0.0, "Versions after which the step size is half of what it was, and so on; 0: it stays.", at_least=0.0
    )
    gamma: float = setting(0.995, "Discount per step.", at_least=0.0, at_most=1.0)
    seed: int = setting(0, "Seed of the first weights and of every shuffle.", at_least=0)
    hidden_size: int = setting(64, "Width of both hidden layers of a new model.", at_least=1, at_most=4096)
    action_count: int = setting(0, "Actions of a new model; 0 takes them from the episodes.", at_least=0, at_most=4096)
    n_epochs: int = setting(
        4, "How often each step of a batch is gone through when its log-probabilities are known.", at_least=1, at_most=100
    )
    minibatch_size: int = setting(256, "Steps that one gradient is made of.", at_least=1, at_most=1_000_000)
    gae_lambda: float = setting(
        0.95,
        "Lambda of generalised advantage estimation: 1 trusts what happened, 0 trusts the value network.",
        at_least=0.0,
        at_most=1.0,
    )
    clip_range: float = setting(
        0.2, "How far an action's probability ratio may leave 1 before it stops counting.", above=0.0, at_most=10.0
    )
    max_importance_weight: float = setting(
        2.0, "The most that one step may count, however much likelier its action has become.", at_least=1.0, at_most=100.0
    )
    ent_coef: float = setting(0.01, "Weight of the bonus for keeping several actions likely.", at_least=0.0, at_most=10.0)
    max_grad_norm: float = setting(0.5, "Length to which a longer gradient is shortened.", above=0.0)
    target_kl: float = setting(
        0.05, "Change of the policy (KL, nats) after which a batch is gone through no further time.", above=0.0
    )
    no_log_probs_rate_share: float = setting(
        0.3,
        "Share of the learning rate that an episode without log-probabilities gets: nothing else holds its steps back.",
        above=0.0,
        at_most=1.0,
    )
    no_log_probs_minibatch_size: int = setting(
        64, "Steps that one gradient is made of for such an episode.", at_least=1, at_most=1_000_000
    )
    staleness_half_life: float = setting(
        32.0, "Model versions after which an episode counts half; 0: age alone changes nothing.", at_least=0.0
    )
    replay_ratio: float = setting(
        15.0, "Old steps, from the newest trained episodes, that join a batch per new step, at most; 0: none.", at_least=0.0
    )
    replay_episodes: int = setting(64, "Newest trained episodes that are kept for that, at most.", at_least=0, at_most=10_000)
    replay_steps: int = setting(1536, "Old steps that join a batch, at most.", at_least=0)
    reject_reward_ratio: float = setting(
        3000.0,
        "An episode with a reward so many times larger than the largest return ever seen teaches nothing; 0: no bound.",
        at_least=0.0,
    )
    reject_update_kl: float = setting(
        3.0, "Change of the policy (KL, nats) by one episode beyond which its lesson is thrown away.", above=0.0
    )
    reject_update_weight: float = setting(
        10_000.0, "A lesson after which a weight of a network is larger than this is thrown away.", above=0.0
    )


__all__ = [
    "UNLIMITED",
    "GameSettings",
    "GovernorSettings",
    "LearnerSettings",
    "LearningSettings",
    "LimitSettings",
    "ReplaySettings",
    "RetentionSettings",
    "Settings",
    "TrainingSettings",
    "check",
    "nearest",
    "needed",
    "setting",
]

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class LearnerSettings(Section):
    """When the learner trains, and on what."""

    batch_size: int = setting(
        10, "Episodes in one batch, at most; in a backlog of short episodes five times as many.", at_least=1, at_most=1000
    )
    backlog_steps: int = setting(
        10_000,
        "Five batches of waiting episodes become one if they hold no more steps than this, as one commit for many costs"
        " little more than one for few; 0: never.",
        at_least=0,
    )
    max_file_age: float = setting(
        3600.0, "Seconds after which a waiting episode is too old to train on; 0 switches the check off.", at_least=0.0
    )
    max_version_lag: int = setting(
        1000, "Model versions after which an episode that records its policy version is too old; 0 switches it off.", at_least=0
    )
    max_workers: int = setting(
        2,
        "Training and replay analysis side by side: with 1, replays are analysed only while no episodes wait.",
        at_least=1,
        at_most=64,
    )
    worker_memory_bytes: int = setting(
        4_000_000_000,
        "Memory above which a worker process that began with less is replaced between two batches.",
        at_least=10_000_000,
    )
    rescan_seconds: float = setting(5.0, "Slowest look into the buffer; events make it sooner.", above=0.0, at_most=3600.0)
    settle_seconds: float = setting(
        10.0,
        "How long an unfinished file of a foreign writer must stand still before it counts as broken.",
        at_least=0.0,
        at_most=3600.0,
    )
    report_seconds: float = setting(30.0, "Time between two status reports on the console.", above=0.0)
    enable_model_training: bool = setting(True, "Whether episodes are trained on.")
    enable_replay_analysis: bool = setting(
        True, "Whether StarCraft II replays are analysed beside the training, if replays.folder names some."
    )
    grow: bool = setting(
        True,
        "Whether the model gets the features and actions that it lacks, when an agent with grow=True delivers an episode.",
    )
    verbose: bool = setting(True, "Whether the learner prints its reports.")
    durability: str = setting(
        "full",
        "full: what was trained survives a power cut; fast: it survives a crash, but not always a power cut.",
        choices=("full", "fast"),
    )
    history_every: int = setting(10, "Every how many versions a copy of the model goes to models/history.", at_least=1)
    history_size: int = setting(10, "Copies kept in models/history.", at_least=1, at_most=10_000)
    log_bytes: int = setting(2_000_000, "Size at which background_training.log is rotated.", at_least=10_000)
    restart_limit: int = setting(5, "Restarts of a dying worker within ten minutes before the learner gives up.", at_least=0)

    @property
    def durable(self) -> bool:
        """Whether each commit is flushed to the disk before the next step counts on it."""
        return self.durability == "full"


@dataclass(frozen=True)
class LimitSettings(Section):
    """How much one episode file may ask for."""

    max_memory_bytes: int = setting(512_000_000, "Memory that reading one episode file may take, at most.", at_least=10_000)
    max_steps: int = setting(1_000_000, "Steps of one episode, at most.", at_least=1)
    max_state_width: int = setting(150_000, "Numbers in one state, at most.", at_least=1)
    max_actions: int = setting(4096, "Number of different actions, at most.", at_least=2)
    max_magnitude: float = setting(1e6, "Largest absolute value of a state, a reward or a log-probability.", above=0.0)


UNLIMITED = LimitSettings(
    max_memory_bytes=2**62, max_steps=2**62, max_state_width=2**62, max_actions=2**31, max_magnitude=float("inf")
)
"""For what was trained on once: it is read again however large it is, as the limits of today are for the files of today."""


@dataclass(frozen=True)
class RetentionSettings(Section):
    """How much of the past is kept; 0 keeps all. What a recovery may still need is never deleted."""

    archive_files: int = setting(0, "Trained episodes kept in data/archive.", at_least=0)
    archive_bytes: int = setting(0, "Their size in bytes, at most.", at_least=0)
    archive_days: float = setting(0.0, "Days that they are kept.", at_least=0.0)
    aside_files: int = setting(0, "Files kept in each of archive/stale, duplicate and rejected.", at_least=0)
    aside_days: float = setting(0.0, "Days that they are kept.", at_least=0.0)
    ledger_lines: int = setting(
        0,
        "Lines kept in the ledger, more only where a recovery needs them; older episodes are no longer recognised when"
        " delivered again.",
        at_least=0,
    )


@dataclass(frozen=True)
class GovernorSettings(Section):
    """When the learner gives way to the game and to other programs. Its own load never counts."""

    enabled: bool = setting(True, "Whether it does so at all; it runs at low priority in any case.")
    check_seconds: float = setting(1.0, "Time between two readings of the machine.", above=0.0, at_most=60.0)
    cpu_percent: float = setting(
        80.0,
        "Share of all processors together that others may take before training gives way; 100: any.",
        above=0.0,
        at_most=100.0,
    )
    memory_percent: float = setting(85.0, "Share of the memory, likewise.", above=0.0, at_most=100.0)
    gpu_memory_percent: float = setting(
        90.0, "Share of a GPU's memory, likewise, where nvidia-ml-py is installed.", above=0.0, at_most=100.0
    )
    free_disk_bytes: int = setting(
        0, "Free space on the root's disk below which training pauses; 0: a full disk is waited for.", at_least=0
    )
    battery_percent: float = setting(
        20.0, "Charge below which training pauses while the machine runs on its battery; 0: never.", at_least=0.0, at_most=100.0
    )
    rest_factor: float = setting(
        3.0, "Above a limit of processor or memory, rest so many times as long as each batch took.", at_least=0.0
    )
    longest_rest_seconds: float = setting(
        60.0,
        "Longest rest for the sake of processor, memory or slow frames; then one batch is trained all the same.",
        at_least=0.0,
    )


@dataclass(frozen=True)
class ReplaySettings(Section):
    """Which StarCraft II replays are analysed."""

    folder: str = setting("", "Folder with replays; empty: none.", environment="REPLAY_ARCHIVE_DIR")
    move_analysed_to: str = setting("", "Folder that analysed replays are moved to; empty: they stay.")
    timeout_seconds: float = setting(60.0, "Time one replay may take before it is given up.", above=0.0)
    workers: int = setting(2, "Processes that read replays when replays are analysed alone.", at_least=1, at_most=64)
    min_seconds: float = setting(
        120.0, "Length of a game, in seconds of play, below which there is nothing to learn.", at_least=0.0
    )
    min_orders: int = setting(10, "Orders of a player below which there is no build order to learn.", at_least=1)
    max_file_bytes: int = setting(
        64_000_000, "Size of a replay, at most; a game of four hours takes 2 million bytes.", at_least=1000
    )
    rescan_seconds: float = setting(
        5.0, "Time between two looks for new replays while watching a folder.", above=0.0, at_most=3600.0
    )
    settle_seconds: float = setting(
        2.0, "How long a replay must have stood still before it is read, while watching.", at_least=0.0
    )


@dataclass(frozen=True)
class GameSettings(Section):
    """What run_with_training.py plays."""

    game: str = setting("LunarLander-v3", "Gymnasium id of the game; CartPole-v1 is the quickest to learn.")
    max_episodes_ahead: int = setting(
        1,
        "Episodes per instance that games may be ahead of the learner before they wait for it, two in all at least; "
        "0: they never wait.",
        at_least=0,
    )
    instances: int = setting(
        1,
        "Games at a time, each in a process of its own when more than one.",
        at_least=1,
        at_most=256,
        environment="NUM_INSTANCES",
    )
    strict: bool = setting(
        False,
        "Whether an RLAgent raises at data that make no sound episode (NaN in a state, a reward that is no number) instead of"
        " playing on and not saving that episode. Under pytest it always raises; RLAgent(strict=...) says so for one agent.",
    )


@dataclass(frozen=True)
class TrainingSettings(Section):
    """How a run of run_with_training.py is kept, so that --resume can go on with it."""

    save_freq: int = setting(
        10,
        "Games after which the state of the run is flushed to the disk. A crash of the program loses no finished game"
        " whatever this is; after a power cut at most so many are played again.",
        at_least=1,
        at_most=1_000_000,
    )


@dataclass(frozen=True)
class Settings:
    """All settings of one run."""

    root: Path = dataclasses.field(default_factory=default_root)
    learner: LearnerSettings = LearnerSettings()
    limits: LimitSettings = LimitSettings()
    learning: LearningSettings = dataclasses.field(default_factory=LearningSettings)
    retention: RetentionSettings = RetentionSettings()
    governor: GovernorSettings = GovernorSettings()
    guard: GuardSettings = dataclasses.field(default_factory=GuardSettings)
    replays: ReplaySettings = ReplaySettings()
    games: GameSettings = GameSettings()
    training: TrainingSettings = TrainingSettings()

    @property
    def paths(self) -> Paths:
        return Paths(self.root)

    def with_values(self, source: str, **sections: dict[str, Any]) -> Settings:
        """A copy with the named values replaced, e.g. `with_values("flags", learner={"batch_size": 5})`.

        Raises:
            SettingsError: an unknown key, or a value out of its range.
        """
        changed = {name: _replaced(getattr(self, name), name, values, source) for name, values in sections.items()}
        return dataclasses.replace(self, **changed)


RENAMED = {
    "learning.rate_half_life": "learning_rate_half_life",
    "learning.hidden": "hidden_size",
    "learning.epochs": "n_epochs",
    "learning.minibatch_steps": "minibatch_size",
    "learning.trace": "gae_lambda",
    "learning.clip": "clip_range",
    "learning.largest_weight": "max_importance_weight",
    "learning.entropy": "ent_coef",
    "learning.gradient_norm": "max_grad_norm",
    "learning.kl_limit": "target_kl",
    "learning.plain_rate_share": "no_log_probs_rate_share",
    "learning.plain_minibatch_steps": "no_log_probs_minibatch_size",
    "learning.reward_jump": "reject_reward_ratio",
    "learning.largest_kl": "reject_update_kl",
    "learning.largest_network_weight": "reject_update_weight",
    "games.lead": "max_episodes_ahead",
}
"""Former names of settings, and the present name of each within the same section."""

RETIRED = {
    "learner.share_from": "this setting has been removed, as training no longer uses several processes: delete it",
    **{key: f"this setting is now called {key.partition('.')[0]}.{name}: rename it" for key, name in RENAMED.items()},
}
"""Settings of earlier versions that no longer exist, and what to do about each."""


def recorded_learning(recorded: Mapping[str, Any]) -> LearningSettings:
    """The learning settings as a ledger line or a model's manifest records them, under their present or former names."""
    return LearningSettings(**{RENAMED.get(f"learning.{key}", key): value for key, value in recorded.items()})


def in_recorded_names(text: str, recorded: Mapping[str, Any]) -> str:
    """A text about learning settings, under the names that a record uses."""
    for key, name in RENAMED.items():
        if key.removeprefix("learning.") in recorded:
            text = text.replace(f"learning.{name}", key)
    return text


def _replaced(section: AnySection, name: str, values: dict[str, Any], source: str) -> AnySection:
    known = {setting_field.name: setting_field for setting_field in dataclasses.fields(section)}
    for key in values:
        if f"{name}.{key}" in RETIRED:
            raise SettingsError(f"{name}.{key}", values[key], RETIRED[f"{name}.{key}"], source)
        if key not in known:
            raise SettingsError(
                f"{name}.{key}", values[key], "known keys are " + ", ".join(sorted(known)) + nearest(key, known), source
            )
    floats = {
        key: float(value) if type_name(known[key]) == "float" and type(value) is int else value for key, value in values.items()
    }
    try:
        return dataclasses.replace(section, **floats)
    except SettingsError as error:
        raise SettingsError(f"{name}.{error.key}", error.value, error.needed, source) from None
