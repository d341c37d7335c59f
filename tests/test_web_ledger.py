"""What the page says of files is what the ledger says, however the ledger is read, grows or is replaced meanwhile."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from background_training.monitor.web import episode_search
from background_training.monitor.web.facts import LedgerFollower
from background_training.paths import Paths
from background_training.records import episode_fate, ledger_lines

REASONS = {
    "trained": None,
    "stale": "waited 4000 s, at most 3600 s are allowed",
    "duplicate": "episode_id was trained in version 3",
    "rejected": "rewards has 3 steps, states has 4 [wrong-length]",
}


def _line(number: int, fate: str, **more: Any) -> dict[str, Any]:
    line = {"seq": number // 10 + 1, "sha256": f"{number:064x}", "name": f"game_{number:06d}.npz", "fate": fate}
    told = {"steps": 7, "return": 1.5} if fate == "trained" else {"reason": REASONS[fate]}
    return {**line, **told, **more}


def _lines(count: int, seed: int = 0) -> list[dict[str, Any]]:
    chosen = random.Random(seed).choices(list(REASONS), [20, 2, 1, 1], k=count)
    return [_line(number, fate) for number, fate in enumerate(chosen)]


def _followed(follower: LedgerFollower) -> Any:
    facts = follower.look()
    while facts.read_share < 1:
        facts = follower.look()
    return facts


@pytest.mark.parametrize("step", [300, 1000, 10_000_000])
def test_counts_are_those_of_the_whole_ledger(paths: Paths, step: int) -> None:
    """Read in bits that end anywhere within a line, the counts are those of who reads all at once."""
    lines = [*_lines(300), {"seq": 9, "sha256": "x", "name": "g", "fate": "deleted", "was": "trained"}]
    lines.append(_line(400, "trained", deleted="to keep within retention"))
    lines.append(_line(401, "rejected", reason='says "fate": "trained" itself [odd-text]'))
    paths.ledger.write_bytes(ledger_lines.encode(lines))

    facts = _followed(LedgerFollower(paths.ledger, bytes_per_look=step))

    assert facts.counts == ledger_lines.counts_of(lines)
    assert {(fate, count) for fate, _, count, _ in facts.reasons if fate != "rejected"} == {
        (fate, sum(line["fate"] == fate for line in lines)) for fate in ("stale", "duplicate")
    }
    assert ("rejected", "odd text", 1, 'says "fate": "trained" itself') in facts.reasons
    assert [line["name"] for line in facts.newest][:1] == ["game_000401.npz"]
    assert facts.damaged == 0


def test_it_follows_while_lines_come_byte_by_byte(paths: Paths) -> None:
    """At every moment the whole lines count, and the one that is being written does not."""
    data = ledger_lines.encode(_lines(4))
    follower = LedgerFollower(paths.ledger)
    for end in range(len(data) + 1):
        paths.ledger.write_bytes(data[:end])
        assert sum(follower.look().counts.values()) == data[:end].count(b"\n"), end


def test_a_replaced_ledger_is_read_anew(paths: Paths) -> None:
    """Retention puts a shorter one in its place, and it may be longer again before the next look."""
    paths.ledger.write_bytes(ledger_lines.encode(_lines(50)))
    follower = LedgerFollower(paths.ledger)
    assert _followed(follower).counts == ledger_lines.counts_of(_lines(50))

    summary = {"seq": 0, "sha256": "", "name": "", "fate": "summary", "counts": {"trained": 40, "stale": 2}}
    other = [summary, *_lines(90, seed=1)]
    # Written over the old one, so that even the number of the file is the same.
    paths.ledger.write_bytes(ledger_lines.encode(other))

    assert _followed(follower).counts == ledger_lines.counts_of(other)
    paths.ledger.unlink()
    assert follower.look().counts == {}


def test_damage_is_told_and_passed_over(paths: Paths) -> None:
    """A damaged line costs itself only; what a stranger wrote in good form does no harm either."""
    strange = [b"garbage", b'{"seq": 1}', b"[" * 5000, b'{"seq": 1, "sha256": "", "name": "", "fate": "summary"}', b""]
    paths.ledger.write_bytes(ledger_lines.encode(_lines(3)) + b"\n".join(strange) + b"\n" + ledger_lines.encode(_lines(3)))

    facts = LedgerFollower(paths.ledger).look()

    assert facts.damaged == len(strange)
    assert facts.counts == Counter(line["fate"] for line in _lines(3) * 2)


def test_what_is_no_file_is_a_word(paths: Paths) -> None:
    """A folder in the ledger's place is told, a missing one is a beginning."""
    follower = LedgerFollower(paths.ledger)
    assert (follower.look().trouble, follower.look().counts) == ("", {})
    paths.ledger.mkdir()
    assert follower.look().trouble == "can't be read: is no regular file"


def _slow_search(lines: list[dict[str, Any]], query: str) -> list[str]:
    """Every line that holds the query anywhere, newest first."""
    escaped = json.dumps(query)[1:-1]
    return [episode_fate.sentence(line) for line in reversed(lines) if escaped in json.dumps(line)]


@pytest.mark.parametrize("block", [64, 500, 1 << 20])
@pytest.mark.parametrize("query", ["game_000017.npz", "00001", "wrong-length", "stale", "f" * 70, "seq"])
def test_search_finds_what_a_slow_one_finds(paths: Paths, monkeypatch: pytest.MonkeyPatch, block: int, query: str) -> None:
    """Blocks that end within lines and within words hide nothing and show nothing twice."""
    monkeypatch.setattr(episode_search, "_BLOCK_BYTES", block)
    lines = _lines(120)
    paths.ledger.write_bytes(ledger_lines.encode(lines))
    wanted = _slow_search(lines, query)

    found = episode_search.search(paths, query)

    assert list(found.sentences) == wanted[: episode_search.MOST_FOUND]
    assert found.complete == (len(wanted) <= episode_search.MOST_FOUND)


def test_search_knows_what_waits_and_strange_names(paths: Paths) -> None:
    """Names are looked for as they are, beyond ASCII too, and shown without what could do harm."""
    (paths.buffer / "wörk <b>.npz").write_bytes(b"")
    (paths.buffer / ".wörk.npz.part").write_bytes(b"")
    paths.ledger.write_bytes(ledger_lines.encode([_line(1, "rejected", name="wörk\n\x1b.npz")]))

    waiting, rejected = episode_search.search(paths, "wörk").sentences

    assert waiting == "wörk <b>.npz: waits in the buffer"
    assert rejected.startswith(r"wörk\n\x1b.npz: rejected, with version 1, because rewards has 3 steps")
    (paths.buffer / ".wörk.npz.part").unlink()


def test_search_stops_when_it_takes_too_long(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger on a drive that hardly answers costs three seconds, and the page says that there may be more."""
    monkeypatch.setattr(episode_search, "_BLOCK_BYTES", 1000)
    paths.ledger.write_bytes(ledger_lines.encode(_lines(50)))
    ticks = itertools.count(step=1.0)

    found = episode_search.search(paths, "game_", lambda: next(ticks))

    assert not found.complete and 0 < len(found.sentences) < 40


def test_search_without_anything_to_find(paths: Paths, tmp_path: Path) -> None:
    """No question, no ledger and no folder are no errors."""
    assert episode_search.search(paths, "  ").sentences == ()
    nothing = episode_search.search(Paths(tmp_path / "nowhere"), "../../etc/passwd")
    assert nothing == episode_search.Found(())
