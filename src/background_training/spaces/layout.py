"""The layout of a model: the names and order of its features and actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from background_training.spaces.action_space import ActionSpace

_LONGEST_NAME = 100


@dataclass(frozen=True)
class ModelLayout:
    """The features of a state and the actions, in the model's order.

    state_names, action_names: empty while unknown; then only positions count.
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


def of_model(manifest: Mapping[str, Any], state_width: int, actions: ActionSpace) -> ModelLayout:
    """The layout that a manifest describes; invalid entries are ignored."""
    names = names_in(manifest.get("action_names"), actions.name_count)
    sizes = manifest.get("former_sizes")
    pairs = [pair for pair in (sizes if isinstance(sizes, list) else []) if _is_pair(pair)]
    return ModelLayout(
        state_width,
        actions,
        names_in(manifest.get("state_names"), state_width),
        () if are_placeholders(names) else names,
        tuple((int(width), int(outputs)) for width, outputs in pairs),
    )


def names_in(said: Any, count: int | None = None) -> tuple[str, ...]:
    """The names in a list of distinct texts, `count` of them; empty for anything else."""
    if not isinstance(said, (list, tuple)) or not all(isinstance(name, str) for name in said):
        return ()
    names = shortened(said)
    return names if len(set(names)) == len(names) and count in (None, len(names)) else ()


def shortened(names: Sequence[str]) -> tuple[str, ...]:
    """Names as they are compared and as a manifest holds them."""
    return tuple(name[:_LONGEST_NAME] for name in names)


def added(own: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names of `own` that `known` lacks, in order; none unless `own` contains all of `known`, or if one of them is empty."""
    if not own or not known or not set(known) < set(own):
        return []
    return [name for name in own if name not in set(known)]


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether these are an agent's default names of unnamed actions."""
    return all(name == f"action_{number}" for number, name in enumerate(names))


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(size) is int and size > 0 for size in pair)
