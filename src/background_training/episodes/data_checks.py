"""Data checks: mistakes of a bot that show in its episodes although each episode is valid, and that prevent learning.

Pure and conservative: a warning is given only when the games have hardly another explanation. The checks take milliseconds
for a few dozen games, which are enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from background_training.episodes.episode import Episode
from background_training.printable import visible
from background_training.spaces import ActionSpace, Discrete, layout

Array = npt.NDArray[np.float64]

FEWEST_GAMES = 3
FEWEST_STEPS = 60
FEWEST_STEPS_FOR_A_SHIFT = 300
LARGE_STATE = 1000.0
_FEATURES = 8
_ACTIONS = 16
_STEPS_USED = 20_000
_BETTER_EXPLAINED = 0.2
_SHARE_OF_THE_ACTION = 0.15
_AT_MOST_NOW = 0.05
_IMPLAUSIBLE_LOG_PROB = -14.0
"""About one in a million."""


class DataWarning(NamedTuple):
    """A short fixed word, what was found, and how to fix it."""

    name: str
    found: str
    cure: str


def find(episodes: Sequence[Episode], space: ActionSpace | None = None) -> list[DataWarning]:
    """All warnings about these games.

    Args:
        episodes: the newest ones of one root, oldest first; fewer than three give no warning.
        space: the model's action space; None if unknown.
    """
    if len(episodes) < FEWEST_GAMES or sum(episode.steps for episode in episodes) < FEWEST_STEPS:
        return []
    found = [
        constant_rewards(episodes),
        shifted_rewards(episodes),
        identical_games(episodes),
        unscaled_states(episodes),
        one_action(episodes, space),
    ]
    return [warning for warning in found if warning is not None]


def constant_rewards(episodes: Sequence[Episode]) -> DataWarning | None:
    """All rewards are equal: zero everywhere, or the same for every step of equally long games.

    A constant reward per step is valid where games differ in length, as in CartPole, or would without a time limit.
    """
    values = {float(value) for episode in episodes for value in (episode.rewards.min(), episode.rewards.max())}
    if len(values) > 1:
        return None
    value = values.pop()
    lengths = {episode.steps for episode in episodes}
    if value == 0:
        cure = "Call update_reward after each action, or end_episode(final_reward=...); in files, fill rewards."
        return DataWarning("zero-rewards", f"every reward of the last {len(episodes)} games is 0", cure)
    if len(lengths) > 1 or not all(episode.terminated for episode in episodes):
        return None
    cure = "Reward what is good more than what is not; a reward that never differs prefers no action."
    return DataWarning(
        "constant-rewards", f"every reward of the last {len(episodes)} games is {value:g}, in games of equal length", cure
    )


def shifted_rewards(episodes: Sequence[Episode]) -> DataWarning | None:
    """Rewards belong to the previous or the next action (off by one).

    The shares of the rewards' variance that state and action of a step explain, by a straight line for each action,
    are compared for the reward's own step and its neighbours. A neighbour must explain far more, and by its
    action: what the state alone explains may be a delay of the game.
    """
    if sum(episode.steps for episode in episodes) < FEWEST_STEPS_FOR_A_SHIFT:
        return None
    now, of_action_now = _explained(episodes, 0)
    for lag, words in ((1, "before"), (-1, "after")):
        there, of_action_there = _explained(episodes, lag)
        if there > now + _BETTER_EXPLAINED and of_action_there > _SHARE_OF_THE_ACTION and of_action_now < _AT_MOST_NOW:
            found = (
                f"rewards answer the action {words} theirs: that explains {there:.0%} of them, their own action {max(now, 0):.0%}"
            )
            cure = "rewards[t] is what the action of step t earned: get_action, then play it, then update_reward."
            return DataWarning("shifted-rewards", found, cure)
    return None


def identical_games(episodes: Sequence[Episode]) -> DataWarning | None:
    """Most games are identical, and not because a deterministic policy plays a deterministic game."""
    games = Counter((episode.states.tobytes(), episode.actions.tobytes(), episode.rewards.tobytes()) for episode in episodes)
    content, count = games.most_common(1)[0]
    if count < FEWEST_GAMES or 2 * count <= len(episodes):
        return None
    twin = next(episode for episode in episodes if episode.states.tobytes() == content[0])
    if twin.log_probs is not None and float(twin.log_probs.sum()) > _IMPLAUSIBLE_LOG_PROB:
        return None
    cure = "Give each game a seed of its own, and record each once."
    return DataWarning("identical-games", f"{count} of the last {len(episodes)} games are the same, step by step", cure)


def unscaled_states(episodes: Sequence[Episode]) -> DataWarning | None:
    """A feature has values in the thousands, which dwarf the others."""
    width = episodes[-1].state_width
    largest = np.max([np.abs(episode.states).max(axis=0) for episode in episodes if episode.state_width == width], axis=0)
    worst = int(largest.argmax())
    if largest[worst] <= LARGE_STATE:
        return None
    names = layout.names_in(episodes[-1].meta.get("state_names"), width)
    name = f" ({visible(names[worst])})" if names else ""
    found = f"number {worst}{name} of the states grows up to {largest[worst]:g}"
    return DataWarning(
        "unscaled-states", found, "Divide each number of a state by its usual largest value, so that all lie between -1 and 1."
    )


def one_action(episodes: Sequence[Episode], space: ActionSpace | None = None) -> DataWarning | None:
    """Every step of every game took the same action although there are others."""
    first = episodes[0].actions[0]
    if any(episode.actions.shape[1:] != first.shape or (episode.actions != first).any() for episode in episodes):
        return None
    known = [space, *(episode.action_space for episode in episodes)]
    counts = [found.count for found in known if isinstance(found, Discrete)]
    if (counts and max(counts) == 1) or any(_was_forced(episode) for episode in episodes):
        return None
    steps = sum(episode.steps for episode in episodes)
    cure = "Play with training=True; raise learning.ent_coef and start a new model, as this one has settled."
    found = f"all {steps} actions of the last {len(episodes)} games are action {np.array2string(first, threshold=10)}"
    return DataWarning("one-action", found, cure)


def _was_forced(episode: Episode) -> bool:
    """Whether the mask allowed only one action in every step."""
    return episode.action_mask is not None and bool((episode.action_mask.sum(axis=1) == 1).all())


def _explained(episodes: Sequence[Episode], lag: int) -> tuple[float, float]:
    """The share of the rewards' variance that the step `lag` before explains, and the part of it due to its action.

    Least squares on every other step, judged on the rest: R^2 = 1 - residual / total, and its difference to that of a fit
    without the action.
    """
    states, actions, rewards = _pairs(episodes, lag)
    if len(rewards) < FEWEST_STEPS_FOR_A_SHIFT // 2 or rewards.std() < 1e-9:
        return 0.0, 0.0
    plain = np.hstack([np.ones((len(states), 1)), states])
    choices = _told_apart(actions)
    both = (choices[:, :, None] * plain[:, None, :]).reshape(len(plain), -1)
    with_action, without = _r_squared(both, rewards), _r_squared(plain, rewards)
    return with_action, with_action - max(without, 0.0)


def _pairs(episodes: Sequence[Episode], lag: int) -> tuple[Array, npt.NDArray[Any], Array]:
    """States [T, F] and actions of the step `lag` before each reward [T]; only the features with the largest deviation."""
    states, actions, rewards = [], [], []
    width, numbers = episodes[-1].state_width, episodes[-1].actions.shape[1:]
    for episode in episodes:
        steps = episode.steps
        if episode.state_width == width and episode.actions.shape[1:] == numbers and steps > 2:
            first, last = max(lag, 0), min(steps, steps + lag)
            rewards.append(episode.rewards[first:last])
            states.append(episode.states[first - lag : last - lag])
            actions.append(episode.actions[first - lag : last - lag])
    if not rewards:
        return np.empty((0, 0)), np.empty(0, np.int64), np.empty(0)
    joined = np.concatenate(states)[-_STEPS_USED:].astype(np.float64)
    spread = joined.std(axis=0)
    kept = np.sort(np.argsort(-spread)[:_FEATURES])
    scaled = (joined[:, kept] - joined[:, kept].mean(axis=0)) / np.maximum(spread[kept], 1e-9)
    return scaled, np.concatenate(actions)[-_STEPS_USED:], np.concatenate(rewards)[-_STEPS_USED:].astype(np.float64)


def _told_apart(actions: Array) -> Array:
    """Actions as regressors [T, C]: one-hot for a few, otherwise the action's own numbers."""
    if actions.ndim == 1:
        return np.eye(int(actions.max()) + 1)[actions] if actions.max() < _ACTIONS else np.ones((len(actions), 1))
    return np.hstack([np.ones((len(actions), 1)), actions[:, :_ACTIONS]])


def _r_squared(features: Array, values: Array) -> float:
    fitted, judged = slice(0, None, 2), slice(1, None, 2)
    weights = np.linalg.lstsq(features[fitted], values[fitted], rcond=None)[0]
    total = float(((values[judged] - values[fitted].mean()) ** 2).sum())
    residual = float(((values[judged] - features[judged] @ weights) ** 2).sum())
    return 1.0 - residual / total if total > 0 else 0.0
