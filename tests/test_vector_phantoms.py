"""A failed env costs one cut episode, never one more: no row between the fault and the new env's play ends anything."""

from __future__ import annotations

from functools import partial

import numpy as np
import psutil
import pytest
from conftest import wait_until
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from vector_fixtures import is_back, nothing_left_behind, step_until  # noqa: F401
from vector_games import END, EXIT, KILL, RAISE, FaultyGame

from background_training.envs import EpisodeRecorder, ResilientAsyncVectorEnv
from background_training.episodes import episode_file
from background_training.paths import Paths

pytestmark = pytest.mark.slow  # real processes

LENGTH = 5
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


class Counter(RecordEpisodeStatistics):
    """Gymnasium's own count of episodes, with the lengths of all."""

    def __init__(self, envs):
        super().__init__(envs, buffer_length=10_000)
        self.lengths = [[] for _ in range(envs.num_envs)]

    def step(self, actions):
        results = super().step(actions)
        for index in np.flatnonzero(results[2] | results[3]):
            self.lengths[index].append(int(results[4]["episode"]["l"][index]))
        return results


def make(mode, count=2, length=LENGTH, **options):
    makers = [partial(FaultyGame, number, length) for number in range(count)]
    settings = {"start_method": "fork", "reduce_after": 0, "autoreset_mode": mode, **options}
    return ResilientAsyncVectorEnv(makers, **settings)


@pytest.mark.parametrize("fault", [KILL, EXIT, RAISE])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("mode", MODES[:2])
def test_a_fault_is_one_cut_episode_however_long_the_env_is_away(mode, workers, fault):
    """Gymnasium's wrapper counts it once, and all others with their whole length."""
    envs = Counter(make(mode, num_workers=workers))
    envs.reset(seed=1)
    for action in (0, 0, fault):
        results = envs.step(np.array([0, action]))
    assert results[3][1] and results[4]["restart_phase"][1] == "fault"
    for _ in range(6 * LENGTH):
        envs.step(np.zeros(2, int))
    step_until(envs, is_back(), np.zeros(2, int))
    assert envs.lengths[1][0] == 3, "two real steps and the one that failed"
    assert envs.lengths[1].count(3) == 1 and all(length >= LENGTH for length in envs.lengths[1][1:])
    if not workers:
        assert set(envs.lengths[0]) <= {LENGTH}
    envs.close()


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_an_env_that_is_away_end_nothing(mode):
    """Not one of them, while a reduction keeps the env away for as long as the test likes."""
    envs = make(mode, length=10**6, reduce_after=1, reduce_window_seconds=3600, calm_seconds=3600)
    envs.reset(seed=1)
    envs.step([0, 0])
    assert envs.step([0, KILL])[3].tolist() == [False, True]
    for step in range(3, 40):
        observations, rewards, terminations, truncations, infos = envs.step([0, 0])
        assert not terminations.any() and not truncations.any() and rewards.tolist() == [step, 0]
        assert infos["restart_phase"][1] == "waiting" and "final_obs" not in infos
        assert observations[1, 3] == 1, "the last good observation"
    envs.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_that_dies_between_two_episodes_cuts_none(workers):
    """NEXT_STEP: the episode has ended, and the step that should have reset the env finds its worker dead."""
    # Long games: the one that is back first does not end while the other is awaited.
    envs = Counter(make(AutoresetMode.NEXT_STEP, length=10**6, num_workers=workers))
    envs.reset(seed=1)
    envs.step([END, END])
    for worker in envs.env.health()["workers"]:
        process = psutil.Process(worker["pid"])
        process.kill()
        wait_until(lambda process=process: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    results = envs.step([0, 0])
    assert results[4]["restart_phase"].tolist() == ["fault", "fault"] and not results[3].any()
    step_until(envs, is_back(), [0, 0])
    assert envs.lengths == [[1], [1]]
    envs.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_recorder_saves_no_empty_episode(mode, tmp_path):
    """Faults at the first step, in the middle and between episodes: what is saved was played."""
    paths = Paths(tmp_path)
    recorder = EpisodeRecorder(make(mode), paths, durable=False)
    recorder.reset(seed=1)
    for step in range(60):
        recorder.step(np.array([0, KILL if step in (0, 20, 40) else RAISE if step % 9 == 8 else 0]))
    recorder.close()
    found = [episode_file.read(path.read_bytes()) for path in paths.buffer.glob("*.npz")]
    assert len(found) > 10 and all(1 <= episode.steps <= LENGTH for episode in found)
    for episode in found:
        assert episode.states[:, 3].tolist() == list(range(episode.steps)) and episode.final_state[3] == episode.steps
