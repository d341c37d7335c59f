"""Every setting with its default, range and description: frozen dataclasses, checked on construction."""

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
    """A dataclass field with its description, its range and the environment variable that may set it."""
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
    """A group of settings, checked on construction."""

    def __post_init__(self) -> None:
        check(self, type(self).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known one, if any."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; the nearest is {found[0]}" if found else ""


@dataclass(frozen=True)
class GuardSettings(Section):
    """When to roll back to the best version automatically because returns have dropped."""

    enabled: bool = setting(False, "Whether to roll back automatically.")
    evaluation_episodes: int = setting(
        20, "Number of consecutive episodes whose mean return measures a version.", at_least=5, at_most=10_000
    )
    tolerance: float = setting(
        0.5, "Share of the best version's gain over the first one that may be lost before the alarm.", above=0.0, at_most=1.0
    )
    false_alarm_episodes: float = setting(
        2000.0,
        "Expected number of episodes between two false alarms, at least, while returns are within the tolerance.",
        above=1.0,
    )


@dataclass(frozen=True)
class LearningSettings(Section):
    """How the policy learns from a batch."""

    learning_rate: float = setting(0.001, "Learning rate of Adam.", above=0.0, at_most=1.0)
    learning_rate_half_life: float = setting(
        0.0, "Number of versions after which the learning rate has halved; 0: constant.", at_least=0.0
    )
    gamma: float = setting(0.995, "Discount factor per step.", at_least=0.0, at_most=1.0)
    seed: int = setting(0, "Seed of the initial weights and of every shuffle.", at_least=0)
    hidden_size: int = setting(64, "Width of both hidden layers of a new model.", at_least=1, at_most=4096)
    action_count: int = setting(0, "Number of actions of a new model; 0: as the episodes declare.", at_least=0, at_most=4096)
    n_epochs: int = setting(
        4, "Number of epochs over an update's steps, for episodes with log-probabilities.", at_least=1, at_most=100
    )
    minibatch_size: int = setting(256, "Steps per gradient.", at_least=1, at_most=1_000_000)
    gae_lambda: float = setting(
        0.95,
        "Lambda of generalised advantage estimation: 1 relies on the observed returns, 0 on the value network.",
        at_least=0.0,
        at_most=1.0,
    )
    clip_range: float = setting(
        0.2,
        "PPO's clip range: how far the probability ratio may differ from 1 before its gradient is cut off.",
        above=0.0,
        at_most=10.0,
    )
    max_importance_weight: float = setting(2.0, "Upper bound on the importance weight of a step.", at_least=1.0, at_most=100.0)
    ent_coef: float = setting(0.01, "Weight of the entropy bonus.", at_least=0.0, at_most=10.0)
    max_grad_norm: float = setting(0.5, "Maximum norm of a gradient; longer ones are scaled down.", above=0.0)
    target_kl: float = setting(0.05, "KL divergence in nats above which an update stops after the current epoch.", above=0.0)
    no_log_probs_rate_share: float = setting(
        0.3,
        "Share of the learning rate for episodes without log-probabilities: nothing else limits their updates.",
        above=0.0,
        at_most=1.0,
    )
    no_log_probs_minibatch_size: int = setting(64, "Steps per gradient for such an episode.", at_least=1, at_most=1_000_000)
    staleness_half_life: float = setting(
        32.0, "Number of model versions after which the weight of an episode has halved; 0: no weighting by age.", at_least=0.0
    )
    replay_ratio: float = setting(
        15.0, "Maximum number of replayed steps per new step, from the newest trained episodes; 0: no replay.", at_least=0.0
    )
    replay_episodes: int = setting(64, "Maximum number of trained episodes kept for replay.", at_least=0, at_most=10_000)
    replay_steps: int = setting(1536, "Maximum number of replayed steps in one update.", at_least=0)
    reject_reward_ratio: float = setting(
        3000.0,
        "Reject the update from an episode with a reward more than this many times the largest return seen; 0: no bound.",
        at_least=0.0,
    )
    reject_update_kl: float = setting(
        3.0, "Reject an update that changes the policy by more than this KL divergence in nats.", above=0.0
    )
    reject_update_weight: float = setting(
        10_000.0, "Reject an update that makes a weight of a network larger than this.", above=0.0
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
        10,
        "Maximum number of episodes in one batch; five times as many in a backlog of short episodes.",
        at_least=1,
        at_most=1000,
    )
    backlog_steps: int = setting(
        10_000,
        "Merge five batches of waiting episodes into one if together they hold no more steps than this: a commit costs about the"
        " same for many episodes as for few. 0: never.",
        at_least=0,
    )
    max_file_age: float = setting(
        3600.0, "Age in seconds above which a waiting episode is stale and not trained on; 0 disables the check.", at_least=0.0
    )
    max_version_lag: int = setting(
        1000,
        "Number of model versions after which an episode that records its policy version is stale; 0 disables the check.",
        at_least=0,
    )
    max_workers: int = setting(
        2,
        "Training and replay analysis in parallel; with 1, replays are analysed only while no episodes wait.",
        at_least=1,
        at_most=64,
    )
    worker_memory_bytes: int = setting(
        4_000_000_000,
        "Memory above which a worker process is restarted between two batches, unless it started with more.",
        at_least=10_000_000,
    )
    rescan_seconds: float = setting(
        5.0, "Longest time between two scans of the buffer; file events trigger a scan sooner.", above=0.0, at_most=3600.0
    )
    settle_seconds: float = setting(
        10.0,
        "How long an unfinished file of another program must stay unchanged before it counts as broken.",
        at_least=0.0,
        at_most=3600.0,
    )
    report_seconds: float = setting(30.0, "Seconds between two status reports on the console.", above=0.0)
    enable_model_training: bool = setting(True, "Whether to train on episodes.")
    enable_replay_analysis: bool = setting(
        True, "Whether to analyse StarCraft II replays during training, if replays.folder is set."
    )
    grow: bool = setting(
        True,
        "Whether to widen the model by features and actions that it lacks when an agent with grow=True delivers an episode.",
    )
    verbose: bool = setting(True, "Whether the learner prints its reports.")
    durability: str = setting(
        "full",
        "full: trained versions survive a power cut; fast: they survive a crash, but not always a power cut.",
        choices=("full", "fast"),
    )
    history_every: int = setting(10, "Keep every n-th version of the model in models/history.", at_least=1)
    history_size: int = setting(10, "Number of versions kept in models/history.", at_least=1, at_most=10_000)
    log_bytes: int = setting(2_000_000, "Size in bytes at which background_training.log is rotated.", at_least=10_000)
    restart_limit: int = setting(5, "Number of worker restarts within ten minutes after which the learner gives up.", at_least=0)

    @property
    def durable(self) -> bool:
        """Whether each commit is flushed to the disk before the next step relies on it."""
        return self.durability == "full"


@dataclass(frozen=True)
class LimitSettings(Section):
    """Upper bounds on a single episode file."""

    max_memory_bytes: int = setting(512_000_000, "Maximum memory in bytes for reading one episode file.", at_least=10_000)
    max_steps: int = setting(1_000_000, "Maximum number of steps in one episode.", at_least=1)
    max_state_width: int = setting(150_000, "Maximum number of values in one state.", at_least=1)
    max_actions: int = setting(4096, "Maximum number of different actions.", at_least=2)
    max_magnitude: float = setting(1e6, "Largest absolute value of a state, a reward or a log-probability.", above=0.0)


UNLIMITED = LimitSettings(
    max_memory_bytes=2**62, max_steps=2**62, max_state_width=2**62, max_actions=2**31, max_magnitude=float("inf")
)
"""For episodes that were trained on before: they are read again whatever the present limits are."""


@dataclass(frozen=True)
class RetentionSettings(Section):
    """How much old data to keep; 0 keeps all. What a recovery may still need is never deleted."""

    archive_files: int = setting(0, "Maximum number of trained episodes in data/archive.", at_least=0)
    archive_bytes: int = setting(0, "Maximum size in bytes of the trained episodes together.", at_least=0)
    archive_days: float = setting(0.0, "Maximum age in days of a trained episode.", at_least=0.0)
    aside_files: int = setting(0, "Maximum number of files in each of archive/stale, duplicate and rejected.", at_least=0)
    aside_days: float = setting(0.0, "Maximum age in days of a file there.", at_least=0.0)
    ledger_lines: int = setting(
        0,
        "Maximum number of lines in the ledger (more where a recovery needs them); duplicates of older episodes are no longer"
        " recognised.",
        at_least=0,
    )


@dataclass(frozen=True)
class GovernorSettings(Section):
    """When to throttle the learner in favour of the game and other programs. Its own load is not counted."""

    enabled: bool = setting(True, "Whether to throttle; the worker runs at low priority in any case.")
    profile: str = setting(
        "shared",
        "shared: give way to other programs above the limits below. overnight: only above 95 % of the memory; hints of the game, "
        "disk and battery count as before.",
        choices=("shared", "overnight"),
    )
    check_seconds: float = setting(1.0, "Seconds between two readings of the machine's load.", above=0.0, at_most=60.0)
    cpu_percent: float = setting(
        80.0,
        "CPU load of other programs (neither the learner nor the games of its root), as a share of all processors, above which"
        " training is throttled; 100: never.",
        above=0.0,
        at_most=100.0,
    )
    memory_percent: float = setting(85.0, "Memory use, as a share, above which training is throttled.", above=0.0, at_most=100.0)
    gpu_memory_percent: float = setting(
        90.0, "GPU memory use, as a share, above which training is throttled; needs nvidia-ml-py.", above=0.0, at_most=100.0
    )
    free_disk_bytes: int = setting(
        0, "Free bytes on the root's disk below which training pauses; 0: pause only when the disk is full.", at_least=0
    )
    battery_percent: float = setting(
        20.0,
        "Battery charge below which training pauses while the machine is not plugged in; 0: never.",
        at_least=0.0,
        at_most=100.0,
    )
    rest_factor: float = setting(
        3.0, "While CPU or memory is above its limit, rest this many times the duration of each batch.", at_least=0.0
    )
    longest_rest_seconds: float = setting(
        60.0,
        "Longest time from one batch to the next while CPU, memory or slow frames hold training up.",
        at_least=0.0,
    )


@dataclass(frozen=True)
class ReplaySettings(Section):
    """Which StarCraft II replays to analyse."""

    folder: str = setting("", "Folder of replays; empty: none.", environment="REPLAY_ARCHIVE_DIR")
    move_analysed_to: str = setting("", "Folder to move analysed replays to; empty: do not move them.")
    timeout_seconds: float = setting(60.0, "Seconds after which the analysis of one replay is aborted.", above=0.0)
    workers: int = setting(2, "Number of processes for the command that analyses replays.", at_least=1, at_most=64)
    min_seconds: float = setting(120.0, "Games shorter than this many seconds of play are skipped.", at_least=0.0)
    min_orders: int = setting(10, "Players with fewer orders than this are skipped.", at_least=1)
    max_file_bytes: int = setting(
        64_000_000, "Maximum size of a replay in bytes; four hours of play take about 2 million.", at_least=1000
    )
    rescan_seconds: float = setting(
        5.0, "Seconds between two scans for new replays while watching a folder.", above=0.0, at_most=3600.0
    )
    settle_seconds: float = setting(2.0, "How long a replay must stay unchanged before it is read, while watching.", at_least=0.0)


@dataclass(frozen=True)
class GameSettings(Section):
    """What the run command plays."""

    game: str = setting("LunarLander-v3", "Gymnasium id of the game; CartPole-v1 learns fastest.")
    max_episodes_ahead: int = setting(
        1,
        "Back-pressure: between two games, the next one waits while more than this many episodes per instance wait for the "
        "learner; 0: never wait.",
        at_least=0,
    )
    max_wait_seconds: float = setting(
        5.0,
        "How long RLAgent.end_episode waits, at most, for a learner that has too many episodes to train on; 0: never. The games "
        "of the run command wait for as long as the learner runs.",
        at_least=0,
        at_most=3600,
    )
    instances: int = setting(
        1,
        "Number of games played in parallel, each in its own process when more than one.",
        at_least=1,
        at_most=256,
        environment="NUM_INSTANCES",
    )
    strict: bool = setting(
        False,
        "Whether an RLAgent raises on invalid data (NaN in a state, a reward that is not a number) instead of continuing"
        " without saving that episode. Under pytest it always raises; RLAgent(strict=...) overrides it for one agent.",
    )


@dataclass(frozen=True)
class TrainingSettings(Section):
    """How the state of a run is saved, so that --resume can continue it."""

    save_freq: int = setting(
        10,
        "Flush the state of the run to the disk after this many games. A crash of the program never loses a finished game;"
        " after a power cut at most this many are played again.",
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
