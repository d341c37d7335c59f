"""Put an episode's features and actions into the model's order, by name or by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training import command_lines
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError
from background_training.spaces.discrete import Discrete
from background_training.spaces.layout import ModelLayout, added, are_placeholders, names_in

Array = npt.NDArray[Any]

OTHER_NAMES = "other-names"
"""The reason of the EpisodeError where names do not match."""
_SHOWN_NAMES = 30


def named_by(layout: ModelLayout, episode: Episode) -> ModelLayout:
    """The layout with the episode's names where it has none."""
    found = dataclasses.replace(layout)
    if not layout.state_names and episode.state_width == layout.state_width:
        found = dataclasses.replace(found, state_names=names_in(episode.meta.get("state_names"), layout.state_width))
    if not layout.action_names:
        names = names_in(episode.meta.get("action_names"), layout.actions.name_count)
        found = dataclasses.replace(found, action_names=() if are_placeholders(names) else names)
    return found


def aligned(episode: Episode, layout: ModelLayout) -> Episode:
    """The episode with its features and actions in the model's order; the same object if nothing changes.

    Names decide where both have them, otherwise positions. An episode of the game before the model was widened gets 0 for each
    added feature, and a mask that makes the added actions illegal, as they were when it was played.

    Raises:
        EpisodeError: "other-names": it has features or actions that the model lacks, or lacks some that it always had;
            "action-out-of-range": an action beyond its own names. `batch.check_fits` checks the rest.
    """
    states = names_in(episode.meta.get("state_names"), episode.state_width)
    places = _places("features", states, episode.state_width, layout.state_names, layout.state_width, layout.former_widths)
    if places is not None:
        episode = _with_features(episode, places, layout)
    return _with_actions(episode, layout)


def _with_features(episode: Episode, places: Sequence[int], layout: ModelLayout) -> Episode:
    rows = _picked(episode.states, places)
    last = None if episode.final_state is None else _picked(episode.final_state, places)
    named = {"state_names": list(layout.state_names)} if layout.state_names else {}
    return dataclasses.replace(episode, states=rows, final_state=last, meta={**episode.meta, **named})


def _picked(values: Array, places: Sequence[int]) -> Array:
    """Columns of [..., S] by their places; 0 where the place is -1."""
    found = np.zeros((*values.shape[:-1], len(places)), values.dtype)
    known = [index for index, place in enumerate(places) if place >= 0]
    found[..., known] = values[..., [places[index] for index in known]]
    return found


def _with_actions(episode: Episode, layout: ModelLayout) -> Episode:
    names = names_in(episode.meta.get("action_names"))
    names = () if are_placeholders(names) else names
    if not isinstance(layout.actions, Discrete) or not isinstance(episode.action_space or layout.actions, Discrete):
        if names and layout.action_names and names != layout.action_names:
            found = f"the numbers of its actions are called {_listed(names)}"
            raise EpisodeError(OTHER_NAMES, found, f"{_listed(layout.action_names)} is needed, in this order")
        return episode
    declared = None if episode.action_space is None else episode.action_space.outputs
    if declared is not None and len(names) != declared:
        names = ()
    count = declared if declared is not None else len(names) or layout.actions.outputs
    places = _places("actions", names, count, layout.action_names, layout.actions.outputs, layout.former_outputs)
    if places is None:
        return episode
    highest = int(episode.actions.max())
    if highest >= count:
        found = f"there is an action {highest}, and action_names has {count}"
        raise EpisodeError("action-out-of-range", found, "every action must be among them")
    numbers: Array = np.zeros(count, np.int64)
    numbers[[place for place in places if place >= 0]] = [index for index, place in enumerate(places) if place >= 0]
    mask = episode.action_mask
    if mask is None and -1 in places:
        mask = np.ones((episode.steps, count), bool)
    meta: dict[str, Any] = {**episode.meta, "action_count": layout.actions.outputs}
    meta |= {"action_names": list(layout.action_names)} if layout.action_names else {}
    if not layout.action_names:
        meta.pop("action_names", None)
    return dataclasses.replace(
        episode,
        actions=numbers[episode.actions],
        action_mask=None if mask is None else _picked(mask, places),
        action_space=layout.actions,
        meta=meta,
    )


def _places(
    what: str, found: Sequence[str], count: int, needed: Sequence[str], size: int, former: Sequence[int]
) -> list[int] | None:
    """Index in the episode of each of the model's features or actions, -1 where missing; None: unchanged.

    Raises:
        EpisodeError: "other-names".
    """
    if not found or not needed:
        return [*range(count), *[-1] * (size - count)] if count != size and count in former else None
    if list(found) == list(needed):
        return None
    position = {name: index for index, name in enumerate(found)}
    if set(found) != set(needed) and not (len(found) in former and set(found) == set(needed[: len(found)])):
        raise EpisodeError(OTHER_NAMES, *different(what, found, needed))
    return [position.get(name, -1) for name in needed]


def grown(episode: Episode, layout: ModelLayout) -> ModelLayout | None:
    """The layout widened by an episode's further names, if its agent requests that (`grow` in its meta); otherwise None."""
    if episode.meta.get("grow") is not True:
        return None
    features = added(names_in(episode.meta.get("state_names"), episode.state_width), layout.state_names)
    outputs = None if episode.action_space is None else episode.action_space.outputs
    discrete = isinstance(layout.actions, Discrete)
    actions = added(names_in(episode.meta.get("action_names"), outputs), layout.action_names) if discrete else []
    if not features and not actions:
        return None
    return ModelLayout(
        layout.state_width + len(features),
        Discrete(layout.actions.outputs + len(actions)) if actions else layout.actions,
        (*layout.state_names, *features),
        (*layout.action_names, *actions),
        (*layout.former_sizes, (layout.state_width, layout.actions.outputs)),
    )


def command_adding(what: str, names: Sequence[str]) -> str:
    """The command that adds these features or actions to a model, for a message."""
    option = "--add-feature" if what == "features" else "--add-action"
    added = f"{option} {' '.join(names[:_SHOWN_NAMES])}"
    return f"{command_lines.command('widen')} {added} gives the model what is new and keeps what it has learnt"


def different(what: str, found: Sequence[str], needed: Sequence[str]) -> tuple[str, str]:
    """What was found and what is needed, for a message, where two lists of names differ as sets."""
    more = [name for name in found if name not in set(needed)]
    missing = [name for name in needed if name not in set(found)]
    parts = [f"without {_listed(missing)}"] if missing else []
    parts += [f"with {_listed(more)} more"] if more else []
    needs = f"the model's are {_listed(needed)}"
    if more and not missing:
        needs += f"; {command_adding(what, more)}"
    return f"its {what} are {_listed(found)}: the model's {', '.join(parts)}", needs


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return "[" + ", ".join(ascii(name) for name in names[:_SHOWN_NAMES]) + f"{more}]"
