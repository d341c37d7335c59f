"""What stands where in a model's states and what its actions are called; and episodes put into that order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError
from background_training.spaces.action_space import ActionSpace
from background_training.spaces.discrete import Discrete

Array = npt.NDArray[Any]

WIDEN = "tools/widen_model.py"
OTHER_NAMES = "other-names"
"""The reason of the EpisodeError where names do not match."""
_SHOWN_NAMES = 30
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Layout:
    """The features of a state and the actions, in the model's order.

    state_names, action_names: empty while they are not known; then positions alone count.
    former_sizes: (features, outputs) that the model had before it was widened. What was added stands behind them.
    """

    state_width: int
    actions: ActionSpace
    state_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    former_sizes: tuple[tuple[int, int], ...] = ()

    @property
    def former_widths(self) -> tuple[int, ...]:
        return tuple(width for width, _ in self.former_sizes)

    @property
    def former_outputs(self) -> tuple[int, ...]:
        return tuple(outputs for _, outputs in self.former_sizes)

    def named_by(self, episode: Episode) -> Layout:
        """With the names that the episode records, where none are known yet."""
        found = dataclasses.replace(self)
        if not self.state_names and episode.state_width == self.state_width:
            found = dataclasses.replace(found, state_names=names_in(episode.meta.get("state_names"), self.state_width))
        if not self.action_names:
            names = names_in(episode.meta.get("action_names"), self.actions.name_count)
            found = dataclasses.replace(found, action_names=() if are_placeholders(names) else names)
        return found


def of_model(manifest: Mapping[str, Any], state_width: int, actions: ActionSpace) -> Layout:
    """The layout that a manifest describes; what in it makes no sense counts as not said."""
    names = names_in(manifest.get("action_names"), actions.name_count)
    sizes = manifest.get("former_sizes")
    pairs = [pair for pair in (sizes if isinstance(sizes, list) else []) if _is_pair(pair)]
    return Layout(
        state_width,
        actions,
        names_in(manifest.get("state_names"), state_width),
        () if are_placeholders(names) else names,
        tuple((int(width), int(outputs)) for width, outputs in pairs),
    )


def names_in(said: Any, count: int | None = None) -> tuple[str, ...]:
    """The names in a list of distinct texts, `count` of them; empty for anything else: then it names nothing."""
    if not isinstance(said, (list, tuple)) or not all(isinstance(name, str) for name in said):
        return ()
    names = shortened(said)
    return names if len(set(names)) == len(names) and count in (None, len(names)) else ()


def shortened(names: Sequence[str]) -> tuple[str, ...]:
    """Names as they are compared and as a manifest holds them."""
    return tuple(name[:_LONGEST_NAME] for name in names)


def added(own: Sequence[str], known: Sequence[str]) -> list[str]:
    """What is new in `own`, in its order, if that holds all that is known; else, or where one names nothing, nothing."""
    if not own or not known or not set(known) < set(own):
        return []
    return [name for name in own if name not in set(known)]


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether these are what an agent calls actions that nobody has named."""
    return all(name == f"action_{number}" for number, name in enumerate(names))


def aligned(episode: Episode, layout: Layout) -> Episode:
    """The episode with its features and actions in the model's order; the very same object if they are already.

    Names that both know decide; otherwise positions. An episode of the game before the model was widened gets 0 for each
    added feature, and a mask that makes the added actions illegal, as they were when it was played.

    Raises:
        EpisodeError: "other-names": it has features or actions that the model lacks, or lacks some that it always had;
            "action-out-of-range": an action beyond its own names. What else does not fit is left to `batch.check_fits`.
    """
    states = names_in(episode.meta.get("state_names"), episode.state_width)
    places = _places("features", states, episode.state_width, layout.state_names, layout.state_width, layout.former_widths)
    if places is not None:
        episode = _with_features(episode, places, layout)
    return _with_actions(episode, layout)


def _with_features(episode: Episode, places: Sequence[int], layout: Layout) -> Episode:
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


def _with_actions(episode: Episode, layout: Layout) -> Episode:
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
    """Where each of the model's features or actions stands in the episode, -1 where it is not; None: all as it is.

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


def grown(episode: Episode, layout: Layout) -> Layout | None:
    """The layout with what an episode has besides, if its agent asks for that (`grow` in its meta); else None."""
    if episode.meta.get("grow") is not True:
        return None
    features = added(names_in(episode.meta.get("state_names"), episode.state_width), layout.state_names)
    outputs = None if episode.action_space is None else episode.action_space.outputs
    discrete = isinstance(layout.actions, Discrete)
    actions = added(names_in(episode.meta.get("action_names"), outputs), layout.action_names) if discrete else []
    if not features and not actions:
        return None
    return Layout(
        layout.state_width + len(features),
        Discrete(layout.actions.outputs + len(actions)) if actions else layout.actions,
        (*layout.state_names, *features),
        (*layout.action_names, *actions),
        (*layout.former_sizes, (layout.state_width, layout.actions.outputs)),
    )


def command_adding(what: str, names: Sequence[str]) -> str:
    """Which command adds these features or actions to a model, in words."""
    option = "--add-feature" if what == "features" else "--add-action"
    return f"{WIDEN} {option} {' '.join(names[:_SHOWN_NAMES])} gives the model what is new and keeps what it has learnt"


def different(what: str, found: Sequence[str], needed: Sequence[str]) -> tuple[str, str]:
    """What was found and what is needed, in words, where two lists of names are not the same set."""
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


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(size) is int and size > 0 for size in pair)
