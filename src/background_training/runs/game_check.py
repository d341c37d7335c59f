"""Checks a game before anything is trained on it: plays it at random and names what will keep a bot from learning.

The mistakes that show in its episodes are those of data_checks; here are those that need the game itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from background_training.episodes import data_checks, episode
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError
from background_training.plain_values import truth_values
from background_training.runs.gymnasium_game import GAME_ERRORS, GameFault, GymnasiumGame
from background_training.spaces import Discrete

Array = npt.NDArray[Any]

PROBLEM, NOTE, GOOD = "PROBLEM", "NOTE", "OK"
FEWEST_STEPS_FOR_ACTIONS = 200
MOST_BYTES = 200_000_000
LARGE_STATE = 20.0
SMALL_STATE = 0.05
IMAGE_NUMBERS = 2000
GAMES_TO_LEARN = 500
"""The README's CartPole and LunarLander are learnt in this order of magnitude of games."""
_TWIN_STEPS = 200


class GameFinding(NamedTuple):
    """level: PROBLEM, NOTE or GOOD; what was found; and what to do, or ""."""

    level: str
    found: str
    cure: str = ""


@dataclass
class RandomGames:
    """What random play has seen.

    seconds: in the game's own reset and step.
    unfinished: steps of a game that had not ended when the time was up.
    cut: games that were cut off.
    masked_steps, legal: steps with a mask, and how often it allowed each action [A].
    raised_after: the action of the step in which the game raised.
    fault: what ended the play early.
    """

    episodes: list[Episode] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    unfinished: int = 0
    cut: int = 0
    masked_steps: int = 0
    legal: Array | None = None
    raised_after: str = ""
    fault: GameFinding | None = None


def check(game: GymnasiumGame, games: int, seconds: float, seed: int = 0) -> list[GameFinding]:
    """Play at random; what was found, the worst first.

    Args:
        games: most games to play.
        seconds: most time to take; a game that does not end by then is left.
    """
    seen = _play(game, games, seconds, seed)
    found = [finding for finding in _findings(game, seen, seed) if finding is not None]
    order = {PROBLEM: 0, NOTE: 1, GOOD: 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _findings(game: GymnasiumGame, seen: RandomGames, seed: int) -> Iterator[GameFinding | None]:
    yield seen.fault
    if seen.fault is None:
        yield _repeatable(game, seed)
    yield from _ends(game, seen)
    if seen.episodes:
        warnings = data_checks.find(seen.episodes, game.actions)
        for name, found, cure in warnings:
            if name == "zero-rewards":  # its cure is for bots that forget to report them
                cure = "Random play never finds one, and the bot begins with that: reward steps on the way, or shorten the way."
            yield GameFinding(PROBLEM, found.replace("of the last", "of the"), cure)
        yield from _rewards(seen.episodes, {warning.name for warning in warnings})
        yield from _states(game, seen.episodes, {warning.name for warning in warnings})
    yield from _actions(game, seen)
    yield _speed(seen)


def _play(game: GymnasiumGame, games: int, seconds: float, seed: int) -> RandomGames:
    """Play random legal games until there are enough, or the time is up, or the game raises."""
    seen = RandomGames(legal=np.zeros(game.actions.outputs, np.int64))
    rng = np.random.default_rng(seed)
    until, held = time.monotonic() + seconds, 0
    for number in range(games):
        if number and (time.monotonic() >= until or held > MOST_BYTES):
            break
        try:
            arrays, over = _one_game(game, seen, rng, seed + number, until)
        except GAME_ERRORS as error:
            seen.fault = _fault(error, number, seen)
            break
        if not over:
            seen.unfinished = len(arrays["actions"])
            arrays["terminated"] = False
        if len(arrays["actions"]):
            try:
                seen.episodes.append(episode.from_arrays(arrays))
            except EpisodeError as error:
                seen.fault = GameFinding(PROBLEM, f"the episode of game {number + 1} would be rejected: {error}")
                break
            held += arrays["states"].nbytes
    return seen


def _one_game(
    game: GymnasiumGame, seen: RandomGames, rng: np.random.Generator, seed: int, until: float
) -> tuple[dict[str, Any], bool]:
    space, outputs = game.actions, np.zeros(game.actions.outputs, np.float32)
    states: list[Array] = []
    actions: list[Any] = []
    rewards: list[float] = []
    masks: list[Array | None] = []
    started = time.perf_counter()
    state, over, terminated = game.reset(seed), False, False
    seen.seconds += time.perf_counter() - started
    width = 4 * len(state)
    while not over and time.monotonic() < until and width * len(states) < MOST_BYTES:
        choice = space.choose(outputs, game.mask, rng, False)
        if game.mask is not None and seen.legal is not None:
            seen.legal += game.mask
            seen.masked_steps += 1
        states.append(state)
        actions.append(choice.action)
        masks.append(game.mask)
        started = time.perf_counter()
        try:
            state, reward, terminated, truncated = game.step(choice.action)
        except GAME_ERRORS:
            seen.raised_after = f"action {choice.action}"
            raise
        took = time.perf_counter() - started
        seen.seconds, seen.steps = seen.seconds + took, seen.steps + 1
        seen.cut += truncated and not terminated
        rewards.append(reward)
        over = terminated or truncated
    arrays: dict[str, Any] = {"states": np.array(states), "rewards": np.array(rewards), "terminated": np.array(terminated)}
    arrays["actions"] = space.recorded(actions)
    arrays["meta"] = {**space.meta, "state_names": list(game.facts.state_names)}
    if masks and all(mask is not None for mask in masks):
        arrays["action_mask"] = truth_values(np.array(masks))
    return arrays, over


def _fault(error: BaseException, number: int, seen: RandomGames) -> GameFinding:
    fault = GameFault.of(error)
    if isinstance(error, EpisodeError):
        found = f"the mask of game {number + 1} contradicts the actions: {error}"
        return GameFinding(PROBLEM, found, "Return one truth value for each action, at least one of them true.")
    where = f" after {seen.raised_after}" if seen.raised_after else " in reset"
    cure = "If the game counts its actions from 1, declare Discrete(n, start=1)." if seen.raised_after == "action 0" else ""
    cure = cure or "Mend it first: such a game is lost, and none of its steps is trained on."
    return GameFinding(PROBLEM, f"game {number + 1} raised{where}: {fault.reason} (in {fault.place})", cure)


def _repeatable(game: GymnasiumGame, seed: int) -> GameFinding | None:
    """Two games with the same seed and the same actions must agree step by step."""

    def first_steps() -> Iterator[Any]:
        rng, outputs = np.random.default_rng(seed), np.zeros(game.actions.outputs, np.float32)
        yield game.reset(seed).tobytes(), 0.0
        for _ in range(_TWIN_STEPS):
            state, reward, terminated, truncated = game.step(game.actions.choose(outputs, game.mask, rng, False).action)
            yield state.tobytes(), reward
            if terminated or truncated:
                return

    try:
        started = time.monotonic()
        one = []
        for step in first_steps():
            one.append(step)
            if time.monotonic() - started > 2.0:
                break
        other = [step for step, _ in zip(first_steps(), one, strict=False)]
    except GAME_ERRORS as error:
        return GameFinding(
            PROBLEM, f"the same game played a second time raised: {GameFault.of(error).reason}", "Reset everything in reset()."
        )
    if one == other:
        return GameFinding(GOOD, f"the same seed gives the same game (compared over {len(one) - 1} steps)")
    place = next((step for step, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(other))
    found = f"the same seed and actions give different games, from step {place} on"
    return GameFinding(
        NOTE, found, "Learning works all the same, but no result can be repeated. Draw random numbers from self.np_random."
    )


def _ends(game: GymnasiumGame, seen: RandomGames) -> Iterator[GameFinding | None]:
    limit = game.spec.max_steps or getattr(game.env.spec, "max_episode_steps", None)
    ended = len(seen.episodes) - bool(seen.unfinished)
    if seen.unfinished and not ended:
        found = f"the first game had not ended after {seen.unfinished:,} steps"
        cure = (
            f"It has a limit of {limit:,} steps."
            if limit
            else "An episode is trained on when it has ended: cut it by --max-steps N."
        )
        yield GameFinding(NOTE if limit else PROBLEM, found, cure)
    elif not limit and not seen.cut and ended and not game.has_turns:
        longest = max(one.steps for one in seen.episodes)
        found = f"the game names no limit of steps (the longest of {ended} random games had {longest:,})"
        yield GameFinding(NOTE, found, "A bot that has learnt to avoid the end may play for ever: --max-steps N cuts a game.")
    if ended and max(one.steps for one in seen.episodes) == 1:
        yield GameFinding(NOTE, "every game lasts one step", "Right for a bandit; otherwise the game ends too early.")
    if ended and seen.cut == ended >= 3:
        found = "every random game is cut by its limit of steps: none comes to an end of its own"
        yield GameFinding(
            NOTE, found, "Fine for a game without an end. Otherwise random play never reaches it; reward steps on the way."
        )


def _rewards(episodes: list[Episode], named: set[str]) -> Iterator[GameFinding | None]:
    if len(episodes) < data_checks.FEWEST_GAMES:
        return
    returns = np.array([one.episode_return for one in episodes])
    good = sum(bool((one.rewards != one.rewards[0]).any()) for one in episodes)
    if not named & {"zero-rewards", "constant-rewards"} and np.ptp(returns) == 0:
        found = f"all {len(episodes)} random games have the same return, {returns[0]:g}"
        cure = "The bot learns from the difference between games; reward what is better within them."
        yield GameFinding(NOTE if good else PROBLEM, found, cure)
    elif "zero-rewards" in named or "constant-rewards" in named:
        return
    else:
        yield GameFinding(GOOD, f"returns of random games: {returns.min():g} to {returns.max():g}, mean {returns.mean():.4g}")
    rare = sum(bool(one.rewards.any()) for one in episodes)
    if 0 < rare <= len(episodes) // 10:
        found = f"only {rare} of {len(episodes)} random games have any reward other than 0"
        yield GameFinding(
            NOTE, found, "Learning starts from such games: expect a long time without progress, or reward steps on the way."
        )


def _states(game: GymnasiumGame, episodes: list[Episode], named: set[str]) -> Iterator[GameFinding | None]:
    states = np.concatenate([one.states for one in episodes])
    low, high = states.min(axis=0), states.max(axis=0)
    width, names = game.state_width, game.facts.state_names

    def listed(which: Array) -> str:
        shown = [names[index] if names else str(index) for index in np.flatnonzero(which)[:5]]
        return ", ".join(shown) + (", ..." if np.count_nonzero(which) > 5 else "")

    if game.left_out:
        yield GameFinding(
            NOTE, f"parts of the observation are left out: {', '.join(game.left_out)}", "Add what matters as numbers."
        )
    if width >= IMAGE_NUMBERS:
        found = f"a state has {width:,} numbers; the network is dense and has no notion of neighbouring pixels"
        yield GameFinding(
            NOTE, found, "Take features instead of an image (obs_type=ram, MinAtar), or compute a few dozen numbers."
        )
    constant = low == high
    if len(states) > 1 and constant.all():
        yield GameFinding(
            PROBLEM, "the state never changes", "The bot can't see what it does; put what it should react to into the state."
        )
    elif constant.any():
        share = np.count_nonzero(constant)
        words = f"{share:,} of {width:,} numbers of the state never change in random games: {listed(constant)}"
        yield GameFinding(NOTE, words, "Harmless if they change later in the game; otherwise leave them out.")
    largest = np.maximum(np.abs(low), np.abs(high))
    large = largest > LARGE_STATE
    if large.any() and "unscaled-states" not in named:
        found = f"numbers of the state are not scaled: {listed(large)} (up to {largest.max():g})"
        yield GameFinding(NOTE, found, "Divide each by its usual largest value, so that all lie between -1 and 1.")
    varied = ~constant
    if varied.any() and largest[varied].max() < SMALL_STATE:
        found = f"all numbers of the state that change are small (at most {largest[varied].max():.2g})"
        yield GameFinding(NOTE, found, "Multiply them so that they reach about 1; small codes in uint8 are divided by 255.")
    elif not large.any() and "unscaled-states" not in named and varied.any():
        yield GameFinding(GOOD, f"states: {width:,} numbers between {low.min():g} and {high.max():g}")


def _actions(game: GymnasiumGame, seen: RandomGames) -> Iterator[GameFinding | None]:
    space = game.actions
    if seen.masked_steps >= FEWEST_STEPS_FOR_ACTIONS and seen.legal is not None:
        never = np.flatnonzero(seen.legal == 0).tolist()
        if never == [0]:
            cure = "If the game counts its actions from 1, declare Discrete(n, start=1)."
            yield GameFinding(PROBLEM, f"in {seen.masked_steps:,} steps the mask never allowed action 0", cure)
        elif never:
            some = ", ".join(map(str, never[:10])) + (", ..." if len(never) > 10 else "")
            cure = "Either the mask is too strict, or random play never gets there."
            yield GameFinding(NOTE, f"in {seen.masked_steps:,} steps the mask never allowed action {some}", cure)
        elif (seen.legal == seen.masked_steps).all():
            yield GameFinding(NOTE, "the mask allows every action in every step", "Then it can be left out.")
        else:
            yield GameFinding(
                GOOD, f"masks: {seen.legal.sum() / seen.masked_steps:.1f} of {space.outputs} actions are legal on average"
            )
    if isinstance(space, Discrete) and not seen.masked_steps and seen.episodes:
        yield from _without_effect(game, seen)


def _without_effect(game: GymnasiumGame, seen: RandomGames) -> Iterator[GameFinding | None]:
    """Actions after which the state never changes and that earn nothing, while others do."""
    tried: Counter[int] = Counter()
    moved: Counter[int] = Counter()
    for one in seen.episodes:
        changed = (one.states[1:] != one.states[:-1]).any(axis=1) | (one.rewards[:-1] != 0)
        tried.update(one.actions[:-1].tolist())
        moved.update(one.actions[:-1][changed].tolist())
    idle = [action for action, count in sorted(tried.items()) if count >= 30 and not moved[action]]
    if idle and moved:
        some = ", ".join(map(str, idle[:10]))
        cure = 'Right for "do nothing"; otherwise look whether the game counts its actions from 1 (Discrete(n, start=1)).'
        yield GameFinding(NOTE, f"action {some} never had an effect on the state or the reward", cure)


def _speed(seen: RandomGames) -> GameFinding | None:
    if not seen.steps:
        return None
    per_second = seen.steps / max(seen.seconds, 1e-9)
    ended = [one.steps for one in seen.episodes][: len(seen.episodes) - bool(seen.unfinished)]
    words = f"{per_second:,.0f} steps a second at random" + (f", {np.mean(ended):,.0f} steps a game" if ended else "")
    if not ended:
        return GameFinding(GOOD, words)
    minutes = GAMES_TO_LEARN * float(np.mean(ended)) / per_second / 60
    longer = f"; {GAMES_TO_LEARN} games of this length take {_duration(minutes)} of playing alone"
    more = ". Easy games are learnt in about as many, hard ones need ten or a hundred times more"
    cure = "Play several at a time (--instances 2), or make a step cheaper." if minutes > 60 else ""
    return GameFinding(NOTE if minutes > 60 else GOOD, words + longer + more, cure)


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{max(1, round(minutes * 60))} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} hours"
