"""A version of the model is a pure function of the one before and its batch: the same bits in every process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import pytest

from background_training.episodes import episode
from background_training.episodes.episode import Episode
from background_training.errors import ModelError
from background_training.learner import checkpoint
from background_training.learner.checkpoint import Checkpoint
from background_training.paths import CHECKOUT
from background_training.settings import RENAMED, LearningSettings, recorded_learning
from background_training.spaces import Discrete
from background_training.storage import model_store

SETTINGS = LearningSettings(hidden_size=8, n_epochs=2)


def _batch(first: int, count: int, **more: Any) -> tuple[list[dict[str, Any]], list[Episode]]:
    made = [episode.from_arrays(episodes.arrays(first + number, **more)) for number in range(count)]
    lines = [{"seq": 0, "sha256": f"hash {first + number}", "name": f"{first + number}.npz"} for number in range(count)]
    return lines, made


def _three_versions() -> Checkpoint:
    present = checkpoint.untrained(episodes.WIDTH, Discrete(episodes.ACTIONS), SETTINGS)
    for first in (0, 10, 20):
        present = checkpoint.successor(present, *_batch(first, 3), SETTINGS)
    return present


def _hash_in_another_process(limited_first: bool) -> str:
    code = "import sys; sys.path[:0] = sys.argv[1:]\n"
    if limited_first:
        code += "from background_training.ipc import process_limits; process_limits.limit_blas_threads()\n"
    code += "import hashlib, test_generation\nprint(hashlib.sha256(test_generation._three_versions().data).hexdigest())\n"
    arguments = [sys.executable, "-c", code, str(CHECKOUT), str(Path(__file__).parent)]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_two_processes_make_the_same_bits() -> None:
    """What the workers of two starts train is the same file, byte for byte."""
    first, second = _hash_in_another_process(True), _hash_in_another_process(True)

    assert first == second and len(first) == 64


def test_the_same_process_makes_the_same_bits_again() -> None:
    """Nothing is kept between two trainings but what is handed over."""
    assert _three_versions().data == _three_versions().data


def test_a_version_read_back_goes_on_as_the_one_in_memory() -> None:
    """All that training needs lies in the file, but for the episodes that may be replayed."""
    lines, made = _batch(30, 3)
    settings = LearningSettings(hidden_size=8, n_epochs=2, replay_ratio=0.0)
    in_memory = checkpoint.untrained(episodes.WIDTH, Discrete(episodes.ACTIONS), settings)
    for first in (0, 10):
        in_memory = checkpoint.successor(in_memory, *_batch(first, 3), settings)
    read = checkpoint.load(in_memory.data, "model")
    read = Checkpoint(read.state, read.version, read.manifest, read.data, in_memory.recent)

    assert checkpoint.successor(read, lines, made, settings).data == checkpoint.successor(in_memory, lines, made, settings).data


@pytest.mark.parametrize("steps", [3, 8, 12])
@pytest.mark.parametrize("hidden", [8, 16, 64])
def test_a_version_read_back_goes_on_alike_with_log_probabilities(hidden: int, steps: int) -> None:
    """Where the arrays lie in the file changes no bit: NumPy multiplies what lies askew by another way through the BLAS."""
    settings = LearningSettings(hidden_size=hidden, n_epochs=2, replay_ratio=0.0)
    first, second = ([episode.from_arrays(episodes.full_arrays(seed, steps))] for seed in (1, 2))
    line = {"seq": 0, "sha256": "hash", "name": "game.npz"}
    untrained = checkpoint.untrained(episodes.WIDTH, Discrete(episodes.ACTIONS), settings)
    in_memory = checkpoint.successor(untrained, [line], first, settings)
    read = dataclasses.replace(checkpoint.load(in_memory.data, "model"), recent=in_memory.recent)

    assert (
        checkpoint.successor(read, [line], second, settings).data
        == checkpoint.successor(in_memory, [line], second, settings).data
    )


def test_versions_count_commits_and_link_into_a_chain() -> None:
    """Each version names the link before it, so that a history can be checked from its end."""
    first = checkpoint.successor(checkpoint.untrained(4, Discrete(3), SETTINGS), *_batch(0, 2), SETTINGS)
    second = checkpoint.successor(first, *_batch(10, 2), SETTINGS)

    assert (first.version, second.version) == (1, 2)
    assert first.commit["previous_chain"] == ""
    assert second.commit["previous_chain"] == first.chain != second.chain
    assert [line["seq"] for line in second.batch] == [2, 2]


def test_the_lines_of_a_batch_come_back_from_json_as_they_were() -> None:
    """What the model file says of its batch and what the ledger says must be equal after both were read."""
    present = _three_versions()

    assert [json.loads(json.dumps(line)) for line in present.batch] == list(present.batch)
    assert list(checkpoint.load(present.data, "model").batch) == list(present.batch)


def test_the_record_of_odd_names_survives_the_model_file() -> None:
    """Names that are no text, ids with any character and non-round returns are read back equal."""
    lines, made = _batch(0, 2)
    lines[0] |= {"name": "g\udce4me \x1b[0m ☃.npz", "episode_id": 'quote " and \\ and \n'}
    lines[1] |= {"return": round(1 / 3, 6)}
    present = checkpoint.successor(checkpoint.untrained(4, Discrete(3), SETTINGS), lines, made, SETTINGS)

    assert list(checkpoint.load(present.data, "model").batch) == list(present.batch)


@pytest.mark.parametrize("change", [{"gamma": 0.5}, {"learning_rate": 0.01}, {"seed": 1}, {"n_epochs": 1}])
def test_changed_settings_are_recorded_with_the_batch_they_changed(change: dict[str, Any]) -> None:
    """Else the past could not be trained again."""
    present = _three_versions()
    changed = LearningSettings(**{"hidden_size": 8, "n_epochs": 2, **change})
    after = checkpoint.successor(present, *_batch(40, 2), changed)
    same = checkpoint.successor(after, *_batch(50, 2), changed)

    assert LearningSettings(**after.batch[0]["learning"]) == changed
    assert "learning" not in same.batch[0]


def test_a_version_trained_under_former_names_of_settings_is_made_again_bit_for_bit() -> None:
    """Its manifest and its first line keep the names of then; the next new version records the present ones."""
    present = checkpoint.untrained(4, Discrete(3), SETTINGS)
    former = {name: key.removeprefix("learning.") for key, name in RENAMED.items() if key.startswith("learning.")}
    recorded = {former.get(key, key): value for key, value in dataclasses.asdict(SETTINGS).items()}

    old = checkpoint.successor(present, *_batch(0, 2), recorded_learning(recorded), recorded)
    again = checkpoint.successor(present, *_batch(0, 2), recorded_learning(old.batch[0]["learning"]), old.batch[0]["learning"])
    after = checkpoint.successor(old, *_batch(10, 2), SETTINGS)

    assert old.manifest["hyper_parameters"] == recorded and "gae_lambda" not in recorded
    assert again.data == old.data
    assert recorded_learning(recorded) == SETTINGS
    assert after.batch[0]["learning"] == after.manifest["hyper_parameters"] == dataclasses.asdict(SETTINGS)


def test_the_order_of_a_batch_matters_and_is_kept() -> None:
    """Another order is another history: it is the ledger's that is trained again."""
    lines, made = _batch(0, 3)
    start = checkpoint.untrained(4, Discrete(3), SETTINGS)

    forward = checkpoint.successor(start, lines, made, SETTINGS)
    backward = checkpoint.successor(start, lines[::-1], made[::-1], SETTINGS)

    assert forward.chain != backward.chain and forward.data != backward.data


def test_training_changes_nothing_of_the_version_before() -> None:
    """A batch that is dropped after an error leaves nothing behind."""
    present = _three_versions()
    data = model_store.pack(_arrays(present), present.version, present.manifest)

    checkpoint.successor(present, *_batch(60, 3), SETTINGS)

    assert model_store.pack(_arrays(present), present.version, present.manifest) == data == present.data


def _arrays(present: Checkpoint) -> dict[str, Any]:
    return dict(checkpoint.train_step.to_arrays(present.state))


def test_a_published_version_has_the_same_weights_and_a_history_of_its_own() -> None:
    """Rolling back makes a new version of old weights; its chain is no link of the former one."""
    present = _three_versions()
    published = checkpoint.republished(present, 9, "a bad day", {"batches_trained": 7})
    read = checkpoint.load(published.data, "model")

    assert (published.version, read.version, read.commit["kind"]) == (9, 9, checkpoint.BASE)
    assert (read.manifest["batches_trained"], read.manifest["samples_trained"]) == (7, present.state.steps)
    assert read.chain == published.chain != present.chain
    assert all(np.array_equal(_arrays(read)[name], value) for name, value in _arrays(present).items())
    assert checkpoint.republished(present, 9, "a bad day", {"batches_trained": 7}).data == published.data


@pytest.mark.parametrize("cut", [0, 10, 1000, -1])
def test_a_damaged_model_is_refused_and_named(cut: int) -> None:
    """The sentence says which file; nothing half-read is returned."""
    data = _three_versions().data

    with pytest.raises(ModelError, match=r"^/some/model\.npz: "):
        checkpoint.load(data[:cut], "/some/model.npz")


def test_the_width_of_a_new_model_is_that_of_most_episodes() -> None:
    """One odd file at the very start decides nothing."""
    made = [episode.from_arrays(episodes.arrays(seed, width=width)) for seed, width in enumerate((9, 4, 4))]

    assert checkpoint.sizes_of(made, SETTINGS)[0] == 4


def test_the_actions_of_a_new_model_are_those_declared_else_those_seen() -> None:
    """A first game in which some action was never taken must not make a model that can't take it."""
    seen = episode.from_arrays(episodes.arrays(0, actions=np.zeros(12, np.int64)))
    declared = episode.from_arrays(episodes.arrays(1, meta=np.array('{"action_count": 6}')))

    assert checkpoint.sizes_of([seen], SETTINGS)[1] == Discrete(2)
    assert checkpoint.sizes_of([seen, declared], SETTINGS)[1] == Discrete(6)
    assert checkpoint.sizes_of([seen, declared], LearningSettings(action_count=5))[1] == Discrete(5)


@pytest.mark.slow
def test_two_roots_with_the_same_files_have_the_same_model(tmp_path: Path) -> None:
    """Wherever the root lies, whichever process trains: the same files give the same model, ledger and archive."""
    pictures = []
    for name in ("a", "ß ☃"):
        root = tmp_path / name
        (root / "data" / "buffer").mkdir(parents=True)
        for seed in range(5):
            episodes.write(root / "data" / "buffer", f"game_{seed}.npz", seed=seed)
        (root / "data" / "buffer" / "broken.npz").write_bytes(b"no archive")
        done = learner_runs.command(root, "--drain", "--quiet", "--batch-size", "2")
        assert done.returncode == 0, done.stderr
        pictures.append(learner_runs.picture(learner_runs.Paths(root)))

    assert pictures[0] == pictures[1]
    assert os.path.join("models", "rl_agent_model.npz") in pictures[0]
