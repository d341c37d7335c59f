"""What a game says reaches the learner: words, frame times, and silence; cheap for the game, and never in its way."""

from __future__ import annotations

import functools
import gc
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from background_training import RLAgent
from background_training.ipc import load_hints
from background_training.ipc.load_hints import FramePace, LoadHintReader, LoadHints
from background_training.paths import CHECKOUT, Paths

MICROSECONDS_PER_FRAME = 20.0


DYING_GAME = """
import os, sys
from pathlib import Path
from background_training.ipc.load_hints import LoadHints
from background_training.paths import Paths
voice = LoadHints(Paths(Path(sys.argv[1])))
voice.busy(60.0)
os._exit(9)
"""


class Clock:
    """A clock moved by hand, the same for the game and the learner."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _heard(listener: LoadHintReader, clock: Clock) -> str:
    return listener.read(clock.now, time.time())[0]


def _write(paths: Paths, text: str, name: str = "mine.txt") -> Path:
    """Say something as a foreign game does."""
    paths.game_voice.mkdir(exist_ok=True)
    path = paths.game_voice / name
    path.write_text(text)
    return path


def _play(agent: RLAgent, frames: int) -> None:
    for _ in range(frames):
        agent.frame(0.016)


def test_a_silent_game_only_registers(paths: Paths) -> None:
    """An agent that plays has one file, however long it plays, which names its process and is no hint; it goes with the agent."""
    agent = RLAgent(root=paths.root, action_names=["a", "b"])
    before = paths.game_voice.exists()
    for training in (True, True, False):
        agent.get_action([0.0], training=training)
        (file,) = paths.game_voice.iterdir()
        first = file.stat().st_mtime_ns
    agent.get_action([0.0])

    assert not before and file.stat().st_mtime_ns == first
    assert LoadHintReader(paths).read(0.0, time.time()) == ("", "")
    assert [process.pid for process in load_hints.registered(paths.game_voice)] == [os.getpid()]
    del agent
    gc.collect()
    assert load_hints.registered(paths.game_voice) == []


def test_an_agent_without_a_root_makes_no_folder(tmp_path: Path) -> None:
    """Who plays a model where no data are registers nowhere, and is registered once there are."""
    clock = Clock()
    voice = LoadHints(Paths(tmp_path / "none"), clock)
    voice.register()
    assert not (tmp_path / "none").exists()

    (tmp_path / "none" / "data").mkdir(parents=True)
    clock.now += 1.0
    voice.register()
    assert len(load_hints.registered(Paths(tmp_path / "none").game_voice)) == 1
    voice.close()


def test_a_registered_process_is_the_one_that_wrote(paths: Paths) -> None:
    """Of a dead game, of a process with its former id, and of a name without an id, nothing counts; only old files go."""
    mine = _write(paths, "game", f"{os.getpid()}_a.txt")
    for name in ("mine.txt", "0_a.txt", f"{2**40}_a.txt", "²_a.txt", f"{_pid_of_ended()}_a.txt"):
        _write(paths, "game", name)
    assert [process.pid for process in load_hints.registered(paths.game_voice)] == [os.getpid()]

    os.utime(mine, (1e9, 1e9))
    assert load_hints.registered(paths.game_voice) == []
    LoadHintReader(paths).read(0.0, time.time())
    assert not mine.exists() and (paths.game_voice / "mine.txt").exists()


def test_the_file_of_a_running_game_is_kept(paths: Paths) -> None:
    """A game that has played for hours without a hint is still registered for a learner that starts then."""
    started = psutil.Process().create_time()
    mine = _write(paths, "game", f"{os.getpid()}_a.txt")
    os.utime(mine, (started, started))
    LoadHintReader(paths).read(0.0, time.time() + 1e5)

    assert mine.exists()


def _pid_of_ended() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    return ended.pid


def test_the_agents_words_are_heard(paths: Paths) -> None:
    """busy, free and frame times of an agent reach a listener, and are gone with the agent."""
    agent, listener = RLAgent(root=paths.root, action_names=["a", "b"]), LoadHintReader(paths)
    heard = []
    for speak in (agent.free, agent.busy, functools.partial(_play, agent, 100)):
        speak()
        heard.append(listener.read(time.monotonic(), time.time())[0])
    del agent, speak
    gc.collect()

    assert heard == ["free", "busy", "steady"]
    assert os.listdir(paths.game_voice) == []


def test_frames_that_get_slower_are_said_at_once(paths: Paths) -> None:
    """With the second slow frame of a game at 60 FPS the learner can know, and what is usual is in the remark."""
    clock = Clock()
    voice, listener = LoadHints(paths, clock), LoadHintReader(paths)
    for _ in range(100):
        clock.now += 1 / 60
        voice.frame(1 / 60)
    assert _heard(listener, clock) == "steady"

    voice.frame(0.025)
    assert _heard(listener, clock) == "steady"
    voice.frame(0.025)
    word, remark = listener.read(clock.now, time.time())
    voice.close()

    assert word == "slow" and remark.startswith("25.0 ms, usually 16.")


def test_a_word_that_is_not_said_again_expires(paths: Paths) -> None:
    """A game that hangs or dies holds nothing up for longer than its last word holds."""
    clock = Clock()
    voice, listener = LoadHints(paths, clock), LoadHintReader(paths)
    voice.busy(5.0)

    assert _heard(listener, clock) == "busy"
    clock.now += 4.9
    assert _heard(listener, clock) == "busy"
    clock.now += 0.2
    assert _heard(listener, clock) == ""
    voice.busy(5.0)
    assert _heard(listener, clock) == "busy"
    voice.close()
    assert _heard(listener, clock) == ""


def test_the_last_word_of_a_killed_game_expires(paths: Paths) -> None:
    """Its file stays; a learner that is started later does not fall for it, and takes away what is very old."""
    subprocess.run([sys.executable, "-c", DYING_GAME, str(paths.root)], cwd=CHECKOUT, check=False)
    (name,) = os.listdir(paths.game_voice)
    now = time.time()

    assert LoadHintReader(paths).read(0.0, now)[0] == "busy"
    assert LoadHintReader(paths).read(0.0, now + 61.0)[0] == ""
    assert (paths.game_voice / name).exists()
    assert LoadHintReader(paths).read(0.0, now + 7200.0)[0] == ""
    assert not (paths.game_voice / name).exists()


def test_no_word_holds_for_longer_than_a_minute(paths: Paths) -> None:
    """Also when a game asks for a day."""
    clock, listener = Clock(), LoadHintReader(paths)
    _write(paths, "busy 86400")

    assert _heard(listener, clock) == "busy"
    clock.now += 60.1
    assert _heard(listener, clock) == ""


@pytest.mark.parametrize("line", ["busy", "busy 3", "busy 3 boss fight\n", "busy\r\n", "busy soon"])
def test_a_foreign_game_needs_one_line(paths: Paths, line: str) -> None:
    """A word in a text file is enough, with or without seconds and remarks."""
    _write(paths, line)

    assert LoadHintReader(paths).read(0.0, time.time())[0] == "busy"


def test_a_foreign_game_may_tell_its_frame_times(paths: Paths) -> None:
    """`frame 0.033`, again and again: what is usual, and what is slow, is found out by the learner."""
    clock, listener = Clock(), LoadHintReader(paths)
    for number in range(60):
        clock.now += 0.1
        path = _write(paths, "frame 0.0167")
        os.utime(path, ns=(0, time.time_ns() + number))
        usual = _heard(listener, clock)
    for number in range(2):
        path = _write(paths, f"frame 0.05{number}")
        slow = _heard(listener, clock)

    assert (usual, slow) == ("steady", "slow")


@given(st.binary(max_size=200))
def test_nonsense_is_silence(tmp_path_factory: pytest.TempPathFactory, line: bytes) -> None:
    """Whatever lies in the file: a word that counts, or nothing; never an error."""
    paths = Paths(tmp_path_factory.mktemp("voice"))
    paths.game_voice.mkdir(parents=True)
    (paths.game_voice / "x.txt").write_bytes(line)

    assert LoadHintReader(paths).read(0.0, time.time())[0] in ("", "busy", "slow", "steady", "free")


@pytest.mark.parametrize(
    "line", ["", "busybody", "frame", "frame x", "frame nan", "busy -1", "busy inf", "steady 2 " + "x" * 200]
)
def test_what_is_no_sentence_leaves_the_former_word(paths: Paths, line: str) -> None:
    """A half-written line changes nothing."""
    clock, listener = Clock(), LoadHintReader(paths)
    _write(paths, "free 30")
    assert _heard(listener, clock) == "free"
    _write(paths, line)

    assert _heard(listener, clock) == "free"


def test_the_busiest_of_several_games_counts(paths: Paths) -> None:
    """One in a menu does not speak for one in a fight; when that one falls silent, the other's word counts."""
    clock, listener = Clock(), LoadHintReader(paths)
    games = [LoadHints(paths, clock) for _ in range(2)]
    games[0].free()
    games[1].busy()
    first = _heard(listener, clock)
    games[1].close()

    assert (first, _heard(listener, clock)) == ("busy", "free")
    games[0].close()


def test_a_folder_that_can_not_be_written_stops_no_game(paths: Paths) -> None:
    """The game goes on, and is not slowed down by trying at every frame."""
    paths.game_voice.write_text("not a folder")
    voice = LoadHints(paths)

    for _ in range(100):
        voice.frame(0.016)
    voice.busy()
    voice.close()


def test_a_frame_costs_the_game_microseconds(paths: Paths) -> None:
    """In processor time, at a pace that makes it renew its word, over ten minutes of a game at 60 FPS."""
    clock = Clock()
    voice = LoadHints(paths, clock)
    begun, frames = time.process_time(), 36_000
    for number in range(frames):
        clock.now += 1 / 60
        voice.frame(1 / 60 + number % 7 * 1e-4)
    micros = 1e6 * (time.process_time() - begun) / frames
    voice.close()

    assert micros < MICROSECONDS_PER_FRAME


def test_the_learner_stands_still_until_the_usual_pace_is_known(paths: Paths) -> None:
    """Otherwise a learner that was at work before the game's first frame were part of what is usual."""
    clock = Clock()
    voice, listener = LoadHints(paths, clock), LoadHintReader(paths)
    heard = []
    for number in range(60):
        clock.now += 1 / 60
        voice.frame(0.030 if number < 8 else 0.015)
        heard.append(_heard(listener, clock))
    voice.frame(0.025)
    voice.frame(0.025)

    assert heard == ["busy"] * 39 + ["steady"] * 21
    assert _heard(listener, clock) == "slow"
    voice.close()


def _share_slow(frames: list[float]) -> float:
    pace = FramePace()
    return sum(not pace.is_usual_after(seconds) for seconds in frames) / len(frames)


def test_jitter_of_the_games_own_is_usual() -> None:
    """Work that varies by a factor of three from frame to frame is this game's pace, and a hiccup now and then too."""
    jitter = [0.010 + 0.005 * math.sin(number * number) for number in range(6000)]
    hiccups = [0.05 if number % 60 == 0 else 0.016 for number in range(6000)]

    assert _share_slow(jitter) < 0.01
    assert _share_slow(hiccups) < 0.01


def test_every_other_frame_slow_is_slow() -> None:
    """A disturbance need not hit every frame."""
    pace = FramePace()
    for _ in range(600):
        pace.is_usual_after(1 / 60)

    verdicts = [pace.is_usual_after(seconds) for seconds in (0.03, 1 / 60, 0.03)]

    assert verdicts == [True, True, False]


def test_a_pace_that_stays_becomes_the_usual_one() -> None:
    """A heavier scene is slow for some seconds only; back in the lighter one, frames are as usual at once."""
    pace = FramePace()
    for _ in range(600):
        pace.is_usual_after(1 / 60)
    verdicts = [pace.is_usual_after(1 / 30) for _ in range(30 * 20)]

    assert not verdicts[3] and all(verdicts[-30:])
    assert all(pace.is_usual_after(1 / 60) for _ in range(60))


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_no_frame_takes_no_time(seconds: float) -> None:
    """What can't be a frame time is passed over."""
    pace = FramePace()
    pace.is_usual_after(0.016)

    assert pace.is_usual_after(seconds) and pace.usual == 0.016
