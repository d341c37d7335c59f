"""Reads models/learned_build_orders.json for a bot, and mixes its values with the bot's own."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def read_build_orders(path: str | Path, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`defaults` updated with the learnt values; `defaults` alone, with a logged warning, if the file is missing or malformed."""
    try:
        learnt = json.loads(Path(path).read_bytes())
        if not isinstance(learnt, dict):
            raise ValueError(f"holds a {type(learnt).__name__}, an object is needed")
    except FileNotFoundError:
        logger.warning("%s is missing: no replays have been analysed; defaults are used", path)
        return dict(defaults or {})
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s can't be used (%s); defaults are used", path, error)
        return dict(defaults or {})
    return {**(defaults or {}), **learnt}


def integrate(own: Mapping[str, float], own_games: Mapping[str, int], learnt: Mapping[str, Any]) -> dict[str, float]:
    """Average a bot's own values and the learnt ones, each weighted by the number of games behind it.

    value[k] = (own_games[k] * own[k] + n[k] * learnt[k]) / (own_games[k] + n[k]), with n = learnt["flat_keys"]["players"].

    Unlike "70 % old, 30 % new", it depends neither on the order nor on how often it is done. Always start from the bot's own
    values, never from an earlier mixture. A value of the bot with no game behind it is replaced by the learnt one.

    Args:
        own: the bot's values, such as {"spawning_pool_supply": 17.0}.
        own_games: the number of games behind each value; 0 for those not named.
        learnt: what `read_build_orders` returns.
    """
    flat_keys = learnt.get("flat_keys")
    players = flat_keys.get("players") if isinstance(flat_keys, dict) else None
    mixed = dict(own)
    for key, count in players.items() if isinstance(players, dict) else ():
        value, games = learnt.get(key), own_games.get(key, 0) if key in own else 0
        if _is_number(value) and _is_number(count) and count > 0:
            mixed[key] = (games * own.get(key, 0.0) + count * value) / (games + count)
    return mixed


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
