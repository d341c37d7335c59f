"""A Gymnasium game, or one that game_adapters makes one, played by RLAgent."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Space

from background_training.agent import RLAgent
from background_training.envs.game_actions import GameActions
from background_training.errors import SettingsError
from background_training.plain_values import one_number
from background_training.runs import game_adapters
from background_training.runs.game_adapters import GameMasks, GameStates, ModelOpponent, TurnBasedGame
from background_training.runs.game_spec import GameSpec
from background_training.spaces import ActionSpace

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

ENDLESS_STEPS = 100_000
"""A game that lasts longer is named, since it may never end."""

RESULT = "Finished"
"""The result in an episode's name and meta: Gymnasium games have no victory."""


@dataclass(frozen=True)
class GameResult:
    """How one game went. `episode_return` is the undiscounted sum of its rewards."""

    number: int
    seed: int
    episode_return: float
    steps: int
    terminated: bool
    policy_version: int
    saved: bool


@dataclass(frozen=True)
class GameFacts:
    """What identifies a game: its Gymnasium id, its state width and its actions. `state_names` are empty if it has none."""

    id: str
    state_width: int
    actions: ActionSpace
    state_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class GameFault:
    """An exception that a game has raised, as plain text, so that a child process can report it.

    kind: its type and the place where it was raised; the same for a repeated error.
    """

    reason: str
    place: str
    kind: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> GameFault:
        """Describe an exception.

        Raises:
            KeyboardInterrupt: Ctrl+C is its cause; a library may have turned that into another error.
        """
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, SettingsError) and error.__cause__ is not None:
            error = error.__cause__  # the cause why a game could not be made
        # By the traceback module, since str() of a game's exception may raise.
        reason = " ".join("".join(traceback.format_exception_only(type(error), error)).split())[:_LONGEST_REASON]
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(reason, place, f"{type(error).__module__}.{type(error).__qualname__} at {place}", trace[-_LONGEST_TRACE:])


@dataclass(frozen=True)
class LostGame:
    """A game that raised, or whose process failed: its episode is dropped, and the next one is played in a new environment.

    kind: the same for losses with the same cause: the exception's type and place, if it was one.
    trace: the traceback of the exception, if it was one; there is none of a process that died.
    """

    number: int
    steps: int
    reason: str
    kind: str = ""
    trace: str = ""

    @classmethod
    def by_fault(cls, number: int, steps: int, fault: GameFault) -> LostGame:
        """A game that raised."""
        where = f" (raised in {fault.place})" if fault.place else ""
        return cls(number, steps, f"{fault.reason}{where}", fault.kind, fault.trace)

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        remedy = "The game is made again" if self.trace else "Its process is replaced"
        return f"Game {self.number} was lost after {self.steps} steps: {self.reason}. {remedy}"


Outcome = GameResult | LostGame

_LONGEST_REASON, _LONGEST_TRACE = 500, 50_000

GAME_ERRORS = (Exception, SystemExit)
"""What a game may raise at the cost of its own episode only; a library that calls sys.exit() must not end a run."""


class GymnasiumGame:
    """One game; states are flat float32 vectors, a Discrete observation is one-hot (see game_adapters).

    Attributes:
        spec: what it is made of.
        steps: of the game that `play` plays or has played last, even if it raised.
        mask: the legal actions [A] after the last reset or step; None if the game gives no mask, or has ended.
    """

    def __init__(self, game: str, render_mode: str | None = None) -> None:
        """Make the environment.

        Args:
            game: its Gymnasium id, e.g. "CartPole-v1", or the text of a GameSpec.
            render_mode: "human" shows it in a window.

        Raises:
            SettingsError: the game is unknown, its packages are missing, its constructor raises, or its spaces are not
                supported.
        """
        self.spec = GameSpec.parse(game)
        try:
            self._env = game_adapters.make(self.spec, render_mode)
            observations = self._env.observation_space
        except (gymnasium.error.Error, ImportError) as error:
            sentence = " ".join(str(error).split())
            hint = game_adapters.needs_module(error)
            sentence = f"{sentence}; {hint}" if hint else sentence
            raise SettingsError("games.game", game, f"a game that Gymnasium can make is needed ({sentence})", "game") from error
        except GAME_ERRORS as error:
            fault = GameFault.of(error)
            needed = f"a game that can be made is needed ({fault.reason}, raised in {fault.place})"
            raise SettingsError("games.game", game, needed, "game") from error
        try:
            self._states = GameStates(observations)
            self._actions = GameActions(self._env.action_space)
            self._masks = GameMasks(self._env, self._actions.space, self._states.has_mask)
        except GAME_ERRORS as error:
            with contextlib.suppress(*GAME_ERRORS):
                self._env.close()
            raise SettingsError("games.game", game, f"a game that can be learnt is needed: {error}", "game") from error
        self.state_width = self._states.width
        self.mask: Array | None = None
        self.steps = self._taken = 0
        self._opponent: ModelOpponent | None = None

    @property
    def facts(self) -> GameFacts:
        """The id, state width and actions of this game."""
        return GameFacts(self._id, self.state_width, self.actions, self._states.names)

    @property
    def left_out(self) -> list[str]:
        """The parts of an observation that no state can hold."""
        return self._states.left_out

    @property
    def has_turns(self) -> bool:
        """Whether it is a game of several players."""
        return isinstance(self._env, TurnBasedGame)

    @property
    def env(self) -> gymnasium.Env[Any, Any]:
        """The environment as it was made."""
        return self._env

    @property
    def actions(self) -> ActionSpace:
        """The agent's action space."""
        return self._actions.space

    @property
    def action_space(self) -> Space[Any]:
        """Gymnasium's space of the agent's actions."""
        return self._actions.flat

    def reset(self, seed: int) -> Array:
        """Start a game; its first state."""
        self._taken = 0
        observation, info = self._env.reset(seed=seed)
        self.mask = self._masks.of(observation, info)
        return self._states.vector(observation)

    def step(self, action: Any) -> tuple[Array, float, bool, bool]:
        """Take an action; the next state, its reward, whether the game has ended, whether it was cut off."""
        observation, reward, ended, cut, info = self._env.step(self._actions.to_game(action))
        self._taken += 1
        terminated = bool(ended)
        truncated = bool(cut) or (not terminated and self._taken == self.spec.max_steps)
        if self._taken == ENDLESS_STEPS and not (terminated or truncated):
            logger.warning(
                "a game of %s has lasted %s steps and may never end; --max-steps N cuts it", self._id, f"{self._taken:,}"
            )
        self.mask = None if terminated or truncated else self._masks.of(observation, info)
        return self._states.vector(observation), one_number(reward), terminated, truncated

    @property
    def frames_per_second(self) -> float:
        """The speed at which the game wants to be shown; 0 if it names none."""
        value = self._env.metadata.get("render_fps")
        return float(value) if isinstance(value, (int, float)) and 0 < value < 1000 else 0.0

    def frame(self) -> Array:
        """The picture of the present state, [height, width, 3] of uint8; for a game made with render_mode "rgb_array".

        Raises:
            SettingsError: the game renders no picture.
        """
        try:
            pixels: Any = self._env.render()
        except GAME_ERRORS as error:
            fault = GameFault.of(error)
            raise SettingsError("games.game", self.facts.id, f"a game that renders is needed ({fault.reason})", "game") from error
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or pixels.shape[2] != 3:
            needed = 'a game that renders pictures (render_mode "rgb_array") is needed'
            raise SettingsError("games.game", self.facts.id, needed, "game")
        return pixels

    def meta(self, number: int, seed: int) -> dict[str, Any]:
        """The meta of the episode of this game."""
        return {"game": self._id, "seed": seed, "number": number}

    def play(
        self,
        agent: RLAgent,
        number: int,
        seed: int,
        training: bool = True,
        episode_id: str = "",
        on_step: Callable[[int], None] | None = None,
    ) -> GameResult:
        """Play one game to its end; when `training`, deposit it as an episode with this id.

        Args:
            on_step: called with the number of steps so far, before the reset and after each step.
        """
        self.steps = 0
        if on_step is not None:
            on_step(0)
        if self.spec.opponent == "self" and isinstance(self._env, TurnBasedGame):
            if self._opponent is None:
                self._opponent = ModelOpponent(agent.model_path, self._states, self.actions, self._actions.to_game)
            self._opponent.start_game(seed)
            self._env.opponent = self._opponent
        state = self.reset(seed)
        episode_return, steps, over = 0.0, 0, False
        terminated = False
        version = agent.model_version
        while not over:
            action, _, _ = agent.get_action(state, training=training, action_mask=self.mask)
            version = agent.model_version if steps == 0 else version
            state, reward, terminated, truncated = self.step(action)
            self.steps = steps = steps + 1
            if on_step is not None:
                on_step(steps)
            episode_return += reward
            over = terminated or truncated
            if training:
                agent.update_reward(reward)
        saved = False
        if training:
            final_state = None if terminated else state
            meta = self.meta(number, seed)
            ended = agent.end_episode(
                terminated=terminated, final_state=final_state, result=RESULT, episode_id=episode_id, meta=meta
            )
            saved = bool(ended["saved"])
        return GameResult(number, seed, episode_return, steps, terminated, version, saved)

    def close(self) -> None:
        """Close the environment; what it raises now affects no game."""
        with contextlib.suppress(*GAME_ERRORS):
            self._env.close()

    @property
    def _id(self) -> str:
        return self._env.spec.id if self._env.spec else self.spec.text
