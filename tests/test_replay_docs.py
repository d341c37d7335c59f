"""The pages on replays are true: their code runs, and they name every reason, timing and flat key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from replay_fakes import a_player, a_result

from background_training.paths import CHECKOUT
from background_training.starcraft.replays import analysis, build_order, summary

PAGE = (CHECKOUT / "docs" / "how-to" / "starcraft2-replays.md").read_text(encoding="utf-8")
REFERENCE = (CHECKOUT / "docs" / "reference" / "replay-summary.md").read_text(encoding="utf-8")


def test_the_code_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """As a bot would run it, beside a summary."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    found = summary.summarise([a_result("a", a_player())], {"a": 1}, {})
    (tmp_path / "models" / "learned_build_orders.json").write_bytes(summary.to_bytes(found))
    names: dict[str, object] = {}

    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, names)

    assert names["pool_supply"] == 17
    assert names["mixed"]["spawning_pool_supply"] == pytest.approx((30 * 14 + 17) / 31)  # type: ignore[index]
    assert "17 hatch, 18 gas, 17 pool" in capsys.readouterr().out


def test_the_page_names_everything():
    """Every reason, timing and key that a summary may hold is explained."""
    missing = [word for word in (*analysis.REASONS, *build_order.NAMES, *summary.FLAT_KEYS) if f"`{word}`" not in REFERENCE]

    assert missing == []
