"""The throttle policy: whether the learner may work now, from machine readings, load hints and settings, with the reason.

Pure: readings, settings, the last decision and a time are arguments, the next decision is the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from background_training.ipc.load_hints import BUSY, FREE, SLOW, STEADY
from background_training.settings import GovernorSettings

BY_THE_USER = "user"
"""The cause that the user's own pause is."""

AT_WORK, GIVING_WAY, PAUSED, OFF = "free", "giving way", "paused", "off"

READINGS_IN_A_ROW = 3
"""Consecutive readings beyond a limit until it counts as passed, so that one peak or one dip changes nothing."""
BACK_BELOW = 0.9
"""Hysteresis: a passed limit stays passed until readings are below this share of it."""
AFTER_SLOW_SECONDS = (1.0, 16.0)
"""How long frames must have their usual duration before training continues: initially, and at most."""
_SOON_AGAIN_SECONDS = 10.0
OVERNIGHT = "overnight"
"""The profile under which other programs do not limit training."""
OVERNIGHT_MEMORY_PERCENT = 95.0
"""What remains of the memory limit in that profile: beyond it the machine starts to swap."""
_BOUNDED = frozenset({"slow frames", "processor", "memory", "GPU memory"})
"""The causes for which training is held up for a bounded time only."""


@dataclass(frozen=True)
class LoadSample:
    """The readings at one time; None means unknown, and does not pause training.

    number: of the machine's reading; load hints are read more often, and each machine reading counts once.
    others_cpu_percent: of the whole machine, without the processes of the learner and of the games of this root.
    memory_percent, gpu_memory_percent: of the whole machine; the first without the learner's own processes.
    battery_percent: only while the machine runs on battery.
    game, game_remark: the game's load hint (see ipc/load_hints.py) and its remark.
    user_pause: by whom and since when training is paused (see records/pause_file.py); "" if it is not.
    last_batch_seconds, last_batch_ended: how long the last batch took, and the moment of its end.
    """

    number: int = 0
    others_cpu_percent: float | None = None
    memory_percent: float | None = None
    gpu_memory_percent: float | None = None
    gpu_percent: float | None = None
    free_disk_bytes: float | None = None
    battery_percent: float | None = None
    game: str = ""
    game_remark: str = ""
    user_pause: str = ""
    last_batch_seconds: float = 0.0
    last_batch_ended: float = float("-inf")


@dataclass(frozen=True)
class LimitState:
    """One limit: whether it counts as passed, since when, and how many consecutive readings contradict that."""

    passed: bool = False
    against: int = 0
    since: float = 0.0


@dataclass(frozen=True)
class SlowFrames:
    """The memory of slow frames: whether they count as slow, since when, until when that stays so, and when it last ended."""

    slow: bool = False
    since: float = 0.0
    steady_since: float | None = None
    rest_seconds: float = AFTER_SLOW_SECONDS[0]
    ended: float = float("-inf")


@dataclass(frozen=True)
class Decision:
    """What the learner may do, and why; also the state for the next decision.

    workers_allowed: of training and other work beside it, how many may work at a time: `max_workers` of them, 1 while giving
        way, or 0: then nothing is read and nothing is trained.
    causes: the causes in the reason, without the changing figures.
    at_once: interrupt a batch too. Only the user's pause and the game's hints do; the machine's readings take effect at
        the end of a batch.
    moment, last_batch_ended: when this was decided, and the sample's end of the last batch.
    held_seconds: for how long slow frames and passed limits have held up the present batch. Time in which training may run
        is subtracted, so that many short waits count as much as a long one.
    """

    state: str
    workers_allowed: int
    reason: str = ""
    causes: tuple[str, ...] = ()
    at_once: bool = False
    number: int = -1
    strains: Mapping[str, LimitState] = field(default_factory=dict)
    frames: SlowFrames = SlowFrames()
    moment: float = float("-inf")
    last_batch_ended: float = float("-inf")
    held_seconds: float = 0.0


def first(settings: GovernorSettings, max_workers: int) -> Decision:
    """The decision before the first reading."""
    return Decision(AT_WORK if settings.enabled else OFF, max_workers)


def decide(sample: LoadSample, settings: GovernorSettings, former: Decision, max_workers: int, moment: float) -> Decision:
    """The next decision.

    In this order, the first that applies: the user has paused training; the game is busy; its frames are slow; disk or
    battery run out; a limit of processor, memory or GPU memory is passed. The first four pause. The last gives way: a
    batch, then a rest of `rest_factor` times its length. Slow frames and passed limits hold training up for so long that
    a batch starts every `longest_rest_seconds`, so that learning never stops for good. The hints "free" and "steady" take
    precedence over the processor's load, as training runs at low priority; so does the profile "overnight". Then the
    learner is free, with a reason for being slow. With governor.enabled false, only the user's pause counts.

    Args:
        moment: seconds of a monotonic clock.
    """
    if not settings.enabled:
        unasked = first(settings, max_workers)
        return _paused_by_user(unasked, sample) if sample.user_pause else unasked
    frames = _frames(sample.game, former.frames, moment)
    memory = Decision(
        AT_WORK,
        max_workers,
        number=sample.number,
        strains=former.strains,
        frames=frames,
        moment=moment,
        last_batch_ended=sample.last_batch_ended,
        held_seconds=_held_seconds(sample, former, moment),
    )
    if sample.number != former.number:
        memory = replace(memory, strains=_strains(sample, settings, former.strains, moment))
    if sample.user_pause:
        return _paused_by_user(memory, sample)
    if sample.game == BUSY:
        return _paused(memory, f"the game is busy{_added(sample)} (to ignore it: governor.enabled: false)", BUSY, at_once=True)
    if memory.frames.slow:
        return _for_slow_frames(sample, settings, memory, moment)
    for name in ("free disk", "battery"):
        if memory.strains.get(name, LimitState()).passed:
            return _paused(memory, _words(name, sample, settings), name)
    passed = [name for name, strain in memory.strains.items() if strain.passed]
    unlimited = _why_unlimited(sample, settings)
    if limited := [name for name in passed if not (name == "processor" and unlimited)]:
        return _giving_way(limited, sample, settings, memory, moment)
    if passed:
        used = _percent(sample.others_cpu_percent)
        why = f"other programs use {used} of the processor and training runs at low priority"
        reason = f"slow, as {why} (governor.cpu_percent does not apply, as {unlimited})"
        return replace(memory, reason=reason, causes=("low priority",))
    return memory


def _paused(memory: Decision, reason: str, *causes: str, at_once: bool = False) -> Decision:
    return replace(memory, state=PAUSED, workers_allowed=0, reason=reason, causes=causes, at_once=at_once)


def _paused_by_user(memory: Decision, sample: LoadSample) -> Decision:
    reason = f"the user has asked for it ({sample.user_pause}); to go on: r in the monitor, or its command with --resume"
    return _paused(memory, reason, BY_THE_USER, at_once=True)


def _why_unlimited(sample: LoadSample, settings: GovernorSettings) -> str:
    """Why the processor's load does not limit training; empty if it does."""
    if settings.profile == OVERNIGHT:
        return "governor.profile is overnight"
    return {FREE: "the game reports a good time to train", STEADY: "the game's frames are as usual"}.get(sample.game, "")


def _held_seconds(sample: LoadSample, former: Decision, moment: float) -> float:
    if sample.last_batch_ended != former.last_batch_ended or former.moment == float("-inf"):
        return 0.0
    elapsed = moment - former.moment
    if former.state == AT_WORK:
        return max(0.0, former.held_seconds - elapsed)
    is_held = former.state == PAUSED and _BOUNDED.issuperset(former.causes)
    return former.held_seconds + (elapsed if is_held else 0.0)


def _added(sample: LoadSample) -> str:
    return f": {sample.game_remark}" if sample.game_remark else ""


def _frames(word: str, former: SlowFrames, moment: float) -> SlowFrames:
    """Slow at once; usual again only after a rest, which doubles if the frames become slow again soon after it."""
    shortest, longest = AFTER_SLOW_SECONDS
    if word == SLOW:
        if former.slow:
            return replace(former, steady_since=None)
        soon = moment - former.ended < max(_SOON_AGAIN_SECONDS, former.rest_seconds)
        rest = min(2 * former.rest_seconds, longest) if soon else shortest
        return SlowFrames(True, moment, None, rest, former.ended)
    if not former.slow or word == FREE:
        return replace(former, slow=False, ended=moment if former.slow else former.ended)
    if former.steady_since is None:
        return replace(former, steady_since=moment)
    if moment - former.steady_since < former.rest_seconds:
        return former
    return replace(former, slow=False, ended=moment)


def _for_slow_frames(sample: LoadSample, settings: GovernorSettings, memory: Decision, moment: float) -> Decision:
    longest = settings.longest_rest_seconds
    reason = (
        f"the game's frames are slower than usual{_added(sample)} (longest wait {longest:g} s: governor.longest_rest_seconds)"
    )
    # Not less than half of it; otherwise the frames would never count where a batch takes a minute.
    if memory.held_seconds >= max(longest - sample.last_batch_seconds, longest / 2):
        reason += f"; one batch all the same, after {memory.held_seconds:.0f} s of rest"
        return replace(memory, state=GIVING_WAY, workers_allowed=1, reason=reason, causes=("slow frames",))
    return _paused(memory, reason, "slow frames", at_once=True)


def _giving_way(passed: list[str], sample: LoadSample, settings: GovernorSettings, memory: Decision, moment: float) -> Decision:
    """Rest after each batch, in proportion to its duration, and so that the next one starts `longest_rest_seconds` after it."""
    longest = max(0.0, settings.longest_rest_seconds - sample.last_batch_seconds)
    rest = min(settings.rest_factor * sample.last_batch_seconds, longest)
    since = max(min(memory.strains[name].since for name in passed), sample.last_batch_ended)
    reason = "; ".join(_words(name, sample, settings) for name in passed)
    if moment - since < rest and memory.held_seconds < longest:
        return _paused(memory, f"{reason}; a rest of {rest:.1f} s before the next batch", *passed)
    reason += "; one batch at a time, with rests between them"
    return replace(memory, state=GIVING_WAY, workers_allowed=1, reason=reason, causes=tuple(passed))


def _limits(sample: LoadSample, settings: GovernorSettings) -> dict[str, tuple[float | None, float, bool]]:
    """By name: the reading, its limit, and whether it is an upper limit."""
    memory, gpu_memory = settings.memory_percent, settings.gpu_memory_percent
    if settings.profile == OVERNIGHT:
        memory, gpu_memory = max(memory, OVERNIGHT_MEMORY_PERCENT), 100.0
    return {
        "processor": (sample.others_cpu_percent, settings.cpu_percent, True),
        "memory": (sample.memory_percent, memory, True),
        "GPU memory": (sample.gpu_memory_percent, gpu_memory, True),
        "free disk": (sample.free_disk_bytes, settings.free_disk_bytes, False),
        "battery": (sample.battery_percent, settings.battery_percent, False),
    }


def _strains(
    sample: LoadSample, settings: GovernorSettings, former: Mapping[str, LimitState], moment: float
) -> dict[str, LimitState]:
    return {
        name: _strain(value, limit, above, former.get(name, LimitState()), moment)
        for name, (value, limit, above) in _limits(sample, settings).items()
    }


def _strain(value: float | None, limit: float, above: bool, former: LimitState, moment: float) -> LimitState:
    if value is None:
        return LimitState()
    if former.passed:
        other_side = value < BACK_BELOW * limit if above else value > limit / BACK_BELOW
    else:
        other_side = value > limit if above else value < limit
    against = former.against + 1 if other_side else 0
    if against < READINGS_IN_A_ROW:
        return replace(former, against=against)
    return LimitState(not former.passed, 0, moment)


def _words(name: str, sample: LoadSample, settings: GovernorSettings) -> str:
    if name == "free disk":
        needed = f"at least {_size(settings.free_disk_bytes)}: governor.free_disk_bytes"
        return f"{_size(sample.free_disk_bytes)} of disk are free ({needed})"
    if name == "battery":
        limit_words = f"limit {_percent(settings.battery_percent)}: governor.battery_percent"
        return f"the battery is at {_percent(sample.battery_percent)} ({limit_words})"
    value, limit, _ = _limits(sample, settings)[name]
    using, setting = _LIMITED[name]
    overnight = "" if settings.profile == OVERNIGHT else ", or --overnight"
    return f"{using} {_percent(value)} of the {name} (limit {_percent(limit)}: {setting}{overnight})"


_LIMITED = {
    "processor": ("other programs use", "governor.cpu_percent"),
    "memory": ("the game and other programs use", "governor.memory_percent"),
    "GPU memory": ("the game and other programs use", "governor.gpu_memory_percent"),
}
"""By limit: which programs count, and the setting."""


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f} %"


def _size(value: float | None) -> str:
    return "?" if value is None else f"{value / 1e6:,.0f} MB"


def facts(decision: Decision, sample: LoadSample) -> dict[str, Any]:
    """The decision for monitors: state, reason, workers_allowed and the readings."""
    readings = {
        "others_cpu_percent": sample.others_cpu_percent,
        "memory_percent": sample.memory_percent,
        "gpu_memory_percent": sample.gpu_memory_percent,
        "gpu_percent": sample.gpu_percent,
        "free_disk_bytes": sample.free_disk_bytes,
        "battery_percent": sample.battery_percent,
        "game": sample.game or None,
    }
    return {
        "state": decision.state,
        "reason": decision.reason,
        "workers_allowed": decision.workers_allowed,
        "readings": {name: round(value, 1) if isinstance(value, float) else value for name, value in readings.items()},
    }


def text(decision: Decision) -> str:
    """The decision in one line."""
    return f"{decision.state}: {decision.reason}" if decision.reason else decision.state
