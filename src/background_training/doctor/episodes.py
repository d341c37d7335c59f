"""Checks of the newest episodes: data that is hard to learn from, and games that play without the model. Pure."""

from __future__ import annotations

from collections.abc import Callable

from background_training.doctor.facts import DoctorFacts
from background_training.doctor.finding import Trouble
from background_training.episodes import data_checks
from background_training.episodes.data_checks import DataWarning
from background_training.episodes.episode import Episode

FEWEST_GAMES = 5
_VERSIONS_FOR_A_VERDICT = 10


def _told(facts: DoctorFacts, look: Callable[[list[Episode]], DataWarning | None]) -> Trouble | None:
    games = facts.episodes
    if len(games) < data_checks.FEWEST_GAMES or sum(game.steps for game in games) < data_checks.FEWEST_STEPS:
        return None
    warning = look(games)
    return None if warning is None else Trouble(f"{warning.found}.", warning.cure)


def constant_rewards(facts: DoctorFacts) -> Trouble | None:
    """No game earns more than any other: rewards are zero, or never differ."""
    return _told(facts, data_checks.constant_rewards)


def shifted_rewards(facts: DoctorFacts) -> Trouble | None:
    """Rewards answer the action before theirs, or after it."""
    return _told(facts, data_checks.shifted_rewards)


def identical_games(facts: DoctorFacts) -> Trouble | None:
    """Every game is the same one."""
    return _told(facts, data_checks.identical_games)


def unscaled_states(facts: DoctorFacts) -> Trouble | None:
    """Some state features are in the thousands, others small."""
    return _told(facts, data_checks.unscaled_states)


def collapsed_policy(facts: DoctorFacts) -> Trouble | None:
    """One action is all that is ever played."""
    return _told(facts, lambda games: data_checks.one_action(games, facts.model.actions))


def games_without_the_model(facts: DoctorFacts) -> Trouble | None:
    """The model advances, and the games still play with an old version of it, or with none."""
    games = _trained(facts)
    played = [game.policy_version for game in games if game.policy_version is not None]
    if len(games) < FEWEST_GAMES or facts.model.version < _VERSIONS_FOR_A_VERDICT or len(played) < len(games):
        return None
    behind = facts.model.version - max(played)
    if behind < _VERSIONS_FOR_A_VERDICT or len(set(played)) > 1:
        return None
    what = "a policy of version 0, that is, without a model" if played[-1] == 0 else f"version {played[-1]}"
    cause = f"the last {len(games)} trained games were played by {what}, while the model is at version {facts.model.version}."
    cure = "Give RLAgent the learner's root and training=True: it looks for a newer model before each game. Else call refresh()."
    return Trouble(cause, cure)


def games_that_do_not_say(facts: DoctorFacts) -> Trouble | None:
    """Neither the version that played nor the actions' probabilities are recorded."""
    games = _trained(facts)
    if len(games) < FEWEST_GAMES:
        return None
    silent = [game for game in games if game.policy_version is None or game.log_probs is None]
    if len(silent) < len(games):
        return None
    missing = [name for name in ("policy_version", "log_probs") if getattr(games[-1], name) is None]
    cause = f"the last {len(games)} trained games do not record {' and '.join(missing)}: "
    cause += "it is unknown whether they are played with the model."
    cure = "RLAgent records both. Your own writer should add them (docs/reference/episode-format.md): learning is faster."
    return Trouble(cause, cure)


def _trained(facts: DoctorFacts) -> list[Episode]:
    return [seen.episode for seen in facts.trained if seen.episode is not None]
