"""Features and actions by their names: put into the model's order, and added to a model that keeps what it has learnt."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from background_training import RLAgent
from background_training.algo import normalizer, policy, train_step, widening
from background_training.episodes import alignment, episode, episode_file
from background_training.errors import EpisodeError, SettingsError
from background_training.ipc.process_limits import BLAS_THREAD_VARIABLES
from background_training.learner import replay_log
from background_training.paths import CHECKOUT, Paths
from background_training.records import ledger_lines
from background_training.settings import LearningSettings
from background_training.spaces import Box, Discrete, MultiDiscrete
from background_training.spaces.layout import ModelLayout
from background_training.storage import atomic_files, model_store
from background_training.storage.file_lock import LearnerLock
from tests.commands import run_tool

FEATURES = ["health", "gold", "wood", "time"]
ACTIONS = ["eat", "dig", "cut"]
SETTINGS = LearningSettings(hidden_size=8, n_epochs=1)


def _meta(features: list[str] | None = None, actions: list[str] | None = None, **more: Any) -> np.ndarray:
    named = {"state_names": features, "action_names": actions} | more
    return np.array(json.dumps({key: value for key, value in named.items() if value is not None}))


def _play(
    paths: Paths,
    name: str,
    seed: int,
    features: list[str] | None = FEATURES,
    actions: list[str] | None = ACTIONS,
    **meta: Any,
) -> Path:
    """Write an episode into the buffer; without names it has the sizes of FEATURES and ACTIONS."""
    width = len(features or FEATURES)
    count = len(actions or ACTIONS)
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.uniform(0.2, 1.0, 12)).astype(np.float32)
    text = _meta(features, actions, **meta)
    return episodes.write(paths.buffer, name, seed, width=width, action_count=count, log_probs=log_probs, meta=text)


def _drain(paths: Paths) -> dict[str, Any]:
    return learner_runs.drain(paths.root)


def _widen(paths: Paths, *arguments: str, exit_code: int = 0) -> str:
    return run_tool("widen_model.py", paths.root, *arguments, exit_code=exit_code)


def _trained_state(width: int = 4, actions: Any = None) -> train_step.TrainingState:
    """A state after a few episodes of random numbers: no weight, moment or statistic is where it began."""
    state = train_step.new_state(width, actions or Discrete(3), SETTINGS)
    games = [episode.from_arrays(episodes.arrays(seed, width=width)) for seed in range(4)]
    return train_step.learn(state, games, SETTINGS, 1)[0] if actions is None else state


def _slow_logits(network: policy.Network, state: np.ndarray) -> list[float]:
    """The forward pass, number by number in float64."""
    values = [float(value) for value in state]
    for weights, biases in ((network.W1, network.b1), (network.W2, network.b2)):
        sums = [sum(v * float(weights[i, j]) for i, v in enumerate(values)) + float(biases[j]) for j in range(len(biases))]
        values = [float(np.tanh(value)) for value in sums]
    return [sum(v * float(network.W3[i, j]) for i, v in enumerate(values)) + float(b) for j, b in enumerate(network.b3)]


# ---------------------------------------------------------------------------------------------------------- widening itself


def test_old_logits_are_what_they_were_whatever_the_new_feature_shows() -> None:
    """A slow forward pass through the narrow network gives what the wide one answers for the old actions."""
    state = _trained_state()
    wide = widening.widened(state, 2, 2)

    rng = np.random.default_rng(3)
    for row in rng.normal(size=(20, 4)) * 3:
        shown = np.concatenate([row, rng.normal(size=2) * 1000]).astype(np.float32)
        answers = policy.forward(wide.policy, shown[None])[0]
        assert answers[:3] == pytest.approx(_slow_logits(state.policy, row.astype(np.float32)), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.floats(0.001, 0.4), st.integers(0, 2**32 - 1), st.floats(0.01, 30.0))
def test_added_actions_get_at_most_their_probability_in_any_state(
    added: int, outputs: int, probability: float, seed: int, scale: float
) -> None:
    """However sure the policy is: the old actions keep their ratios, and none that is added is the likeliest."""
    rng = np.random.default_rng(seed)
    network = policy.Network(*(scale * rng.normal(size=shape).astype(np.float32) for shape in policy.shapes(3, 5, outputs)))
    wide = widening.wider_policy(network, 0, added, probability)
    states = rng.normal(size=(30, 3)).astype(np.float32)

    before = policy.probabilities(network, states).astype(np.float64)
    after = policy.probabilities(wide, states).astype(np.float64)

    new = after[:, outputs:].sum(axis=1)
    assert (new <= probability * 1.0001 + 1e-6).all()
    assert after[:, :outputs] == pytest.approx(before * (1.0 - new)[:, None], abs=1e-5)
    assert (policy.forward(wide, states).argmax(axis=1) < outputs).all()


def test_an_undecided_policy_gives_added_actions_just_their_probability() -> None:
    """The bound is met where all old actions are equally likely, so there it is no smaller than need be."""
    network = policy.Network(*(np.zeros(shape, np.float32) for shape in policy.shapes(2, 3, 4)))

    after = policy.probabilities(widening.wider_policy(network, 0, 2, 0.05), np.zeros((1, 2), np.float32))

    assert after[0, 4:].sum() == pytest.approx(0.05, rel=1e-5)


def test_everything_that_was_there_stays_bit_for_bit() -> None:
    """Weights, moments, statistics and counters of the old features and actions are the very same numbers."""
    state = _trained_state()
    wide = widening.widened(state, 2, 1)

    assert (wide.state_width, wide.actions) == (6, Discrete(4))
    for old, new in ((state.actor_network(), wide.actor_network()), (state.policy, wide.policy)):
        assert (new.W1[:4] == old.W1).all() and (new.W1[4:] == 0).all() and (new.b1 == old.b1).all()
        assert (new.W3[:, :3] == old.W3).all() and (new.b3[:3] == old.b3).all() and (new.W2 == old.W2).all()
    assert (wide.critic_network().W1[4:] == 0).all() and (wide.critic_network().W3 == state.critic_network().W3).all()
    for part in ("actor", "critic"):
        old_part, new_part = getattr(state, part), getattr(wide, part)
        first = policy.network_of(new_part.moments.first, 6, 8, 4 if part == "actor" else 1)
        second = policy.network_of(new_part.moments.second, 6, 8, 4 if part == "actor" else 1)
        old_second = policy.network_of(old_part.moments.second, 4, 8, 3 if part == "actor" else 1)
        assert (first.W1[4:] == 0).all() and (second.W1[:4] == old_second.W1).all()
        assert second.W1[4:] == pytest.approx(np.tile(old_second.W1.mean(axis=0), (2, 1)), rel=1e-5)
        assert new_part.moments.steps == old_part.moments.steps > 0
    assert (wide.observations.mean[:4] == state.observations.mean).all()
    assert wide.observations.count[:4] == pytest.approx(state.observations.count) and (wide.observations.count[4:] == 0).all()
    assert wide.returns == state.returns and (wide.updates, wide.steps) == (state.updates, state.steps)


def test_a_widened_state_survives_its_file() -> None:
    """All arrays come back, the counts of features that came later too."""
    wide = widening.widened(_trained_state(), 1, 1)

    back = train_step.from_arrays(train_step.to_arrays(wide), wide.actions, "test")

    assert all(
        (a == b).all() for a, b in zip(train_step.to_arrays(wide).values(), train_step.to_arrays(back).values(), strict=True)
    )


def test_statistics_of_a_new_feature_begin_with_the_first_rows_that_have_it() -> None:
    """Afterwards its mean, spread and span are those of these rows alone; the old features' are of all rows."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(5, 2, (50, 2)), rng.normal(-70, 9, (30, 3))

    found = normalizer.merged(normalizer.widened(normalizer.of_rows(before), 1), normalizer.of_rows(after))

    both = np.concatenate([before, after[:, :2]])
    assert found.mean == pytest.approx([*both.mean(axis=0), after[:, 2].mean()])
    assert found.variance == pytest.approx([*both.var(axis=0), after[:, 2].var()])
    assert found.lowest == pytest.approx([*both.min(axis=0), after[:, 2].min()])
    assert found.highest == pytest.approx([*both.max(axis=0), after[:, 2].max()])
    unseen = normalizer.widened(normalizer.of_rows(before), 1)
    assert unseen.inverse_scale[2] == 1.0 and unseen.mean[2] == 0.0


@pytest.mark.parametrize("space", [MultiDiscrete((3, 2)), Box((-1.0,), (1.0,))])
def test_features_can_be_added_for_every_kind_of_action(space: Any) -> None:
    """Only the inputs grow: the outputs stay what they were."""
    state = _trained_state(actions=space)
    wide = widening.widened(state, 1, 0)
    rows = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)

    assert policy.forward(wide.policy, rows) == pytest.approx(policy.forward(state.policy, rows[:, :4]), abs=1e-6)


# ------------------------------------------------------------------------------------------------- episodes in another order


def _named_episode(seed: int, features: list[str], actions: list[str], *, masked: bool) -> episode.Episode:
    arrays = episodes.arrays(seed, width=len(features), action_count=len(actions), meta=_meta(features, actions))
    if masked:
        mask = np.random.default_rng(seed).random((12, len(actions))) < 0.5
        mask[np.arange(12), arrays["actions"]] = True
        arrays["action_mask"] = mask
    return episode.from_arrays({**arrays, "final_state": np.arange(len(features), dtype=np.float32)})


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(4)), st.permutations(range(3)), st.booleans(), st.integers(0, 1000))
def test_any_order_of_names_means_the_same_episode(features: list[int], actions: list[int], masked: bool, seed: int) -> None:
    """An episode written in another order is, column by column and action by action, the one in the model's order."""
    model = ModelLayout(4, Discrete(3), tuple(FEATURES), tuple(ACTIONS))
    plain = _named_episode(seed, FEATURES, ACTIONS, masked=masked)
    written = dataclasses.replace(
        plain,
        states=plain.states[:, features],
        final_state=plain.final_state[features],
        actions=np.array([actions.index(action) for action in plain.actions]),
        action_mask=None if plain.action_mask is None else plain.action_mask[:, actions],
        meta={"state_names": [FEATURES[place] for place in features], "action_names": [ACTIONS[place] for place in actions]},
    )

    found = alignment.aligned(written, model)

    assert (found.states == plain.states).all() and (found.final_state == plain.final_state).all()
    assert (found.actions == plain.actions).all()
    assert masked is (found.action_mask is not None) and (not masked or (found.action_mask == plain.action_mask).all())
    assert found.meta["state_names"] == FEATURES and found.meta["action_names"] == ACTIONS
    assert alignment.aligned(found, model) is found


@pytest.mark.parametrize(
    "meta",
    [{}, {"state_names": "abc"}, {"state_names": ["a", "a", "b", "c"]}, {"state_names": ["a"]}, {"action_names": [1, 2, 3]}],
    ids=["none", "a text", "twice", "too few", "numbers"],
)
def test_what_names_nothing_is_a_remark(meta: dict[str, Any]) -> None:
    """Positions count then, as they always did."""
    plain = dataclasses.replace(_named_episode(0, FEATURES, ACTIONS, masked=False), meta=meta)

    assert alignment.aligned(plain, ModelLayout(4, Discrete(3), tuple(FEATURES), tuple(ACTIONS))) is plain


@pytest.mark.parametrize(
    ("features", "actions", "words"),
    [
        (
            ["health", "gold", "wood", "mana"],
            ACTIONS,
            r"without \['time'\], with \['mana'\] more.*'health', 'gold', 'wood', 'time'",
        ),
        ([*FEATURES, "mana"], ACTIONS, r"widen_model\.py --add-feature mana"),
        (FEATURES, ["eat", "dig", "CUT"], r"without \['cut'\], with \['CUT'\] more"),
        (FEATURES, [*ACTIONS, "sleep"], r"widen_model\.py --add-action sleep"),
        (FEATURES[:3], ACTIONS, r"without \['time'\]"),
    ],
)
def test_other_names_are_refused_with_both_lists(features: list[str], actions: list[str], words: str) -> None:
    """What is missing and what is more is said; where only something was added, the command that adds it."""
    with pytest.raises(EpisodeError, match=words) as caught:
        alignment.aligned(
            _named_episode(0, features, actions, masked=False), ModelLayout(4, Discrete(3), tuple(FEATURES), tuple(ACTIONS))
        )
    assert caught.value.reason == alignment.OTHER_NAMES


def test_numbers_of_other_kinds_of_actions_must_come_in_the_models_order() -> None:
    """Their bounds differ, so a permutation would be another game: it is refused by name."""
    space = MultiDiscrete((3, 2))
    meta = np.array(json.dumps({**space.meta, "action_names": ["lamp", "door"]}))
    written = episode.from_arrays(episodes.arrays(0, actions=np.zeros((12, 2), np.int64), meta=meta))

    with pytest.raises(EpisodeError, match="in this order"):
        alignment.aligned(written, ModelLayout(4, space, (), ("door", "lamp")))


def test_the_learner_trains_permuted_episodes_as_what_they_are(tmp_path: Path) -> None:
    """The same games, some written in another order, in the first batch and in later ones, make the same weights; the
    archive trained again gives the same bytes, also when the model is lost and old episodes are replayed."""
    roots = [Paths(tmp_path / name) for name in ("plain", "mixed")]
    order, turned = [2, 0, 3, 1], [1, 2, 0]
    for paths in roots:
        paths.buffer.mkdir(parents=True)
    for number in range(7):
        arrays = episodes.arrays(number, log_probs=np.full(12, -1.0, np.float32), meta=_meta(FEATURES, ACTIONS))
        episodes.write(roots[0].buffer, f"game_{number}.npz", number, **arrays)
        if number in (1, 3, 4):
            arrays["states"] = arrays["states"][:, order]
            arrays["actions"] = np.array([turned.index(action) for action in arrays["actions"]])
            arrays["meta"] = _meta([FEATURES[place] for place in order], [ACTIONS[place] for place in turned])
        episodes.write(roots[1].buffer, f"game_{number}.npz", number, **arrays)
    for paths in roots:
        assert _drain(paths)["files_processed"] == 7

    plain, mixed = (model_store.read(paths.model) for paths in roots)
    assert all((plain.arrays[name] == mixed.arrays[name]).all() for name in plain.arrays)
    assert mixed.layout.state_names == tuple(FEATURES) and mixed.layout.action_names == tuple(ACTIONS)
    marked = [line["name"] for line in ledger_lines.read_lines(roots[1].ledger) if "aligned" in line]
    assert marked == ["game_1.npz", "game_3.npz", "game_4.npz"]
    assert "Identical" in run_tool("rebuild_model.py", roots[1].root)
    before = roots[1].model.read_bytes()
    roots[1].model.unlink()
    _drain(roots[1])
    assert roots[1].model.read_bytes() == before


def test_an_episode_with_other_names_is_rejected_and_costs_nothing_else(paths: Paths) -> None:
    """The reason says both lists; the games around it are trained."""
    for number in range(3):
        _play(paths, f"game_{number}.npz", number)
    _drain(paths)
    _play(paths, "game_3.npz", 3)
    _play(paths, "other.npz", 4, features=["health", "gold", "wood", "mana"])

    _drain(paths)

    assert episodes.fates(paths)["rejected"] == ["other.npz"] and "game_3.npz" in episodes.fates(paths)["trained"]
    reason = learner_runs.reason(paths, "rejected", "other.npz")
    assert "'mana'" in reason and "'time'" in reason and "[other-names]" in reason


def test_a_ledger_of_a_learner_that_did_not_look_at_names_is_trained_again_as_it_was(paths: Paths) -> None:
    """It trained a permuted episode by position: without the mark in its line that is what a rebuild does as well."""
    for number in range(3):
        _play(paths, f"game_{number}.npz", number)
    _play(paths, "game_9.npz", 9, actions=ACTIONS[::-1])
    _drain(paths)
    lines = list(ledger_lines.read_lines(paths.ledger))
    assert lines[-1]["aligned"] is True
    by_name = list(replay_log.replay(paths, list(ledger_lines.groups(lines)), None))[-1]
    del lines[-1]["aligned"]

    by_position = list(replay_log.replay(paths, list(ledger_lines.groups(lines)), None))[-1]

    assert by_name.data == paths.model.read_bytes() != by_position.data
    read = replay_log.episode_of(paths, lines[-1])
    assert (read.actions == episodes.arrays(9)["actions"]).all()


# ------------------------------------------------------------------------------------------------------ the tool, in a root


@pytest.fixture
def played(paths: Paths) -> Paths:
    """A root with two versions of a model that knows its names."""
    for number in range(6):
        _play(paths, f"game_{number}.npz", number)
    _drain(paths)
    return paths


WIDER = [*FEATURES, "mana"], [*ACTIONS, "sleep"]


def test_the_tool_publishes_a_wider_version_that_goes_on_learning(played: Paths) -> None:
    """Old and new games are trained after it, and all of it can be trained again to the same bytes, copy or no copy."""
    before = model_store.read(played.model)

    said = _widen(played, "--add-feature", "mana", "--add-action", "sleep")

    wide = model_store.read(played.model)
    assert "[OK] Version 3 takes states of 5 numbers and chooses actions 0 to 3" in said
    assert wide.version == 3 and wide.layout.state_names == tuple(WIDER[0]) and wide.layout.action_names == tuple(WIDER[1])
    rows = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    narrow_net, wide_net = (policy.Network(*(m.arrays[key] for key in model_store.POLICY_KEYS)) for m in (before, wide))
    new = policy.probabilities(wide_net, rows)
    assert (new[:, 3] <= 0.01001).all()
    assert new[:, :3] / new[:, :3].sum(axis=1, keepdims=True) == pytest.approx(
        policy.probabilities(narrow_net, rows[:, :4]), abs=1e-5
    )
    told = list(ledger_lines.read_lines(played.ledger))[-1]
    assert told["fate"] == "published" and told["seq"] == 3 and told["reason"] == "widened: feature mana and action sleep"
    assert "has not been trained since" in run_tool("rebuild_model.py", played.root)

    for number in range(6, 9):
        _play(played, f"game_{number}.npz", number, *WIDER)
    _play(played, "old_1.npz", 21)
    _play(played, "old_2.npz", 22, features=None, actions=None)
    _play(played, "turned.npz", 23, features=WIDER[0][::-1], actions=WIDER[1][::-1])
    assert _drain(played)["files_processed"] == 12
    assert episodes.fates(played)["rejected"] == []
    assert "Identical" in run_tool("rebuild_model.py", played.root)
    for copy in played.history.glob("base_*.npz"):
        copy.unlink()
    assert "Identical" in run_tool("rebuild_model.py", played.root)
    assert "Rebuilt up to version" in run_tool("rebuild_model.py", played.root, "--without", "game_7*")


def test_an_old_game_after_the_widening_teaches_what_it_taught(played: Paths) -> None:
    """Its episode is padded with 0, and the actions that it did not have count as illegal, so the ratios are right."""
    _widen(played, "--add-feature", "mana", "--add-action", "sleep")
    model = model_store.read(played.model)
    old = _named_episode(5, FEATURES, ACTIONS, masked=False)

    found = alignment.aligned(old, model.layout)

    assert (found.states[:, :4] == old.states).all() and (found.states[:, 4] == 0).all() and found.final_state[4] == 0
    assert found.action_mask.tolist() == [[True, True, True, False]] * 12
    assert found.action_space == Discrete(4) and (found.actions == old.actions).all()


def test_a_model_without_names_gets_its_new_feature_at_the_end(paths: Paths) -> None:
    """Positions count then; that is said, with the option that gives it names."""
    for number in range(3):
        _play(paths, f"game_{number}.npz", number, features=None, actions=None)
    _drain(paths)

    said = _widen(paths, "--add-feature", "mana")

    assert "have no names, so their order counts; --state-names gives them names" in said
    assert model_store.read(paths.model).layout.state_names == ()
    _play(paths, "old.npz", 7, features=None, actions=None)
    _play(paths, "new.npz", 8, features=WIDER[0], actions=None)
    _drain(paths)
    assert episodes.fates(paths)["rejected"] == []
    assert model_store.read(paths.model).layout.state_names == tuple(WIDER[0])
    assert "Identical" in run_tool("rebuild_model.py", paths.root)


def test_names_can_be_given_and_changed(played: Paths) -> None:
    """Who renames an action says so once, and goes on with the same weights."""
    before = model_store.read(played.model).arrays

    _widen(played, "--action-names", "EAT", "DIG", "CUT")

    after = model_store.read(played.model)
    assert after.layout.action_names == ("EAT", "DIG", "CUT") and after.layout.former_sizes == ()
    assert all((after.arrays[name] == before[name]).all() for name in before)


def test_two_widenings_in_a_row_are_trained_again_to_the_same_bytes(played: Paths) -> None:
    """The steps of both stand in the ledger, so that neither copy is needed."""
    _widen(played, "--add-feature", "mana")
    _widen(played, "--add-action", "sleep", "--probability", "0.05")
    for number in range(6, 9):
        _play(played, f"game_{number}.npz", number, *WIDER)
    _play(played, "narrow.npz", 30)
    _play(played, "half.npz", 31, features=WIDER[0])
    _drain(played)
    assert episodes.fates(played)["rejected"] == []
    for copy in played.history.glob("base_*.npz"):
        copy.unlink()

    assert "Identical" in run_tool("rebuild_model.py", played.root)


def test_a_lost_widened_model_is_made_again_from_the_ledger(played: Paths) -> None:
    """Model, history and copy are gone before anything was trained on it: the same bytes come back."""
    _widen(played, "--add-feature", "mana")
    before = played.model.read_bytes()
    played.model.unlink()
    for copy in played.history.glob("*.npz"):
        copy.unlink()

    _drain(played)

    assert played.model.read_bytes() == before


def test_rollback_goes_back_behind_a_widening_and_forward_again(played: Paths) -> None:
    """Both are publications: the narrow model plays again, and so does the wide one."""
    _widen(played, "--add-feature", "mana")
    run_tool("rollback_model.py", played.root, "2")
    assert model_store.read(played.model).state_width == 4
    run_tool("rollback_model.py", played.root, "3")
    wide = model_store.read(played.model)
    assert (wide.version, wide.state_width, wide.layout.former_widths) == (5, 5, (4,))
    _play(played, "new.npz", 40, features=WIDER[0])
    _drain(played)
    assert "Identical" in run_tool("rebuild_model.py", played.root)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "nothing to do"),
        (("--add-feature", "gold"), 2, "every feature needs a name of its own"),
        (("--add-action", "x", "x"), 2, "every action needs a name of its own"),
        (("--state-names", "a", "b"), 2, "4 names are needed, one for each feature"),
        (("--add-action", "x", "--probability", "0.7"), 2, "between 0 and 0.5"),
        (("--add-action", "x", "--probability", "nan"), 2, "between 0 and 0.5"),
        (("--add-action", "x", "--probability", "many"), 2, "invalid"),
    ],
)
def test_what_can_not_be_added_is_bad_usage(played: Paths, arguments: tuple[str, ...], code: int, words: str) -> None:
    """One line says what is wrong, and the root is as it was."""
    before = learner_runs.picture(played)

    assert words in _widen(played, *arguments, exit_code=code)

    assert learner_runs.picture(played) == before


def test_actions_of_other_kinds_can_not_be_added(paths: Paths) -> None:
    """A number more in a MultiDiscrete action is another game."""
    meta = np.array(json.dumps(MultiDiscrete((3, 2)).meta))
    episodes.write(paths.buffer, "game.npz", 0, actions=np.zeros((12, 2), np.int64), meta=meta)
    _drain(paths)

    assert "only to a choice among numbered actions" in _widen(paths, "--add-action", "x", exit_code=2)


def test_it_is_refused_while_a_learner_is_at_work_and_where_there_is_no_run(played: Paths, tmp_path: Path) -> None:
    """Exit code 3 with the learner's process, as every command that changes a root; 5, and no folder, for a mistyped one."""
    lock = LearnerLock(played)
    lock.acquire()
    try:
        _widen(played, "--add-feature", "mana", exit_code=3)
    finally:
        lock.release()
    assert "there is no run in it" in _widen(Paths(tmp_path / "mistyped"), "--add-feature", "mana", exit_code=5)
    assert not (tmp_path / "mistyped").exists()


def test_a_root_without_a_model_has_nothing_to_widen(paths: Paths) -> None:
    """That is said, and none is invented."""
    assert "rl_agent_model.npz" in _widen(paths, "--add-feature", "mana", exit_code=1)


KILLED = """
import os, sys
from background_training.storage import atomic_files
from background_training.records.ledger import Ledger
kill_at, counted = int(sys.argv.pop()), 0
def killed(real):
    def call(*arguments, **more):
        global counted
        counted += 1
        if counted == kill_at:
            os.kill(os.getpid(), 9)
        return real(*arguments, **more)
    return call
os.replace, Ledger.record_published, Ledger.append = killed(os.replace), killed(Ledger.record_published), killed(Ledger.append)
from background_training.commands import widen as widen_model
sys.exit(widen_model.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_killed_at_any_moment_the_root_has_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    """After each kill the next start goes on with one of both, tells of the new one in the ledger, and loses no game."""
    seen = set()
    wide_bytes = b""
    before = Paths(tmp_path / "before")
    before.buffer.mkdir(parents=True)
    _play(before, "game_0.npz", 0)
    _drain(before)
    narrow = before.model.read_bytes()
    for kill_at in range(1, 20):
        paths = Paths(tmp_path / f"{kill_at}")
        shutil.copytree(before.root, paths.root)
        command = [sys.executable, "-c", KILLED, "--root", str(paths.root), "--add-feature", "mana", str(kill_at)]
        one_thread = {**learner_runs.environment(), **dict.fromkeys(BLAS_THREAD_VARIABLES, "1")}
        code = subprocess.run(command, cwd=CHECKOUT, env=one_thread, capture_output=True, timeout=60).returncode
        found = paths.model.read_bytes()
        state = "old" if found == narrow else "new"
        if state == "new":
            wide_bytes = wide_bytes or found
            assert found == wide_bytes
        _play(paths, "after.npz", 9, features=FEATURES if state == "old" else WIDER[0])
        _drain(paths)
        assert episodes.fates(paths)["rejected"] == [] and model_store.read(paths.model).version == (2 if state == "old" else 3)
        told = [line["seq"] for line in ledger_lines.read_lines(paths.ledger) if line["fate"] == "published"]
        assert told == ([] if state == "old" else [2])
        assert not atomic_files.exists(atomic_files.partial_path(paths.model))
        seen.add((state, code))
        if code == 0:
            break
        assert code == -9
    assert seen == {("old", -9), ("new", -9), ("new", 0)}


# ------------------------------------------------------------------------------------------------------------- the agent


def _agent(paths: Paths, features: list[str] | None = FEATURES, actions: list[str] | None = ACTIONS, **more: Any) -> RLAgent:
    return RLAgent(root=paths.root, state_names=features, action_names=actions, seed=1, settings=SETTINGS, **more)


def _game(agent: RLAgent, features: list[str], seed: int = 0, steps: int = 10) -> None:
    """A game of random numbers, the same by name in whatever order they are."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        shown = dict(zip([*FEATURES, "mana"], rng.normal(size=5), strict=True))
        agent.get_action([shown[name] for name in features])
        agent.update_reward(float(rng.normal()))
    assert agent.end_episode(final_state=[float(len(name)) for name in features])["saved"]


def _newest(paths: Paths) -> episode.Episode:
    waiting = sorted(paths.buffer.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
    return episode_file.read(waiting[-1].read_bytes())


def test_an_agent_records_the_names_and_the_model_gets_them(paths: Paths) -> None:
    """From the first game on, which decides the order."""
    _game(_agent(paths), FEATURES)
    assert _newest(paths).meta["state_names"] == FEATURES
    _drain(paths)
    assert model_store.read(paths.model).layout.state_names == tuple(FEATURES)
    assert model_store.read(paths.model).manifest["state_names"] == FEATURES


def test_bots_in_other_orders_train_the_first_model_alike(tmp_path: Path) -> None:
    """Before there is a model, the first episode's order becomes the model's; the same games by name make the same weights."""
    models = []
    for name, order, turned in (("plain", [0, 1, 2, 3], [0, 1, 2]), ("mixed", [2, 0, 3, 1], [1, 2, 0])):
        paths = Paths(tmp_path / name)
        features, actions = [FEATURES[place] for place in order], [ACTIONS[place] for place in turned]
        for number, (own_features, own_actions) in enumerate([(FEATURES, ACTIONS), (features, actions)] * 2):
            agent, rng = _agent(paths, own_features, own_actions), np.random.default_rng(number)
            for _ in range(10):
                shown = dict(zip(FEATURES, rng.normal(size=4), strict=True))
                only = ACTIONS[rng.integers(len(ACTIONS))]
                played = agent.get_action([shown[one] for one in own_features], action_mask=[one == only for one in own_actions])
                assert played[1] == only
                agent.update_reward(float(rng.normal()))
            assert agent.end_episode()["saved"]
            [written] = paths.buffer.glob("game_*.npz")
            written.rename(paths.buffer / f"{number}.npz")  # episodes are trained in the order of their names
        assert _drain(paths)["files_processed"] == 4
        models.append(model_store.read(paths.model))

    plain, mixed = models
    assert mixed.layout.state_names == tuple(FEATURES) and mixed.layout.action_names == tuple(ACTIONS)
    assert all((plain.arrays[name] == mixed.arrays[name]).all() for name in plain.arrays)


@pytest.mark.parametrize("pixels", [False, True], ids=["floats", "uint8"])
def test_an_agent_with_features_in_another_order_plays_the_same(played: Paths, pixels: bool) -> None:
    """The same game shown in two orders gives the same actions and probabilities, and the same episode in the file."""
    order = [2, 0, 3, 1]
    plain, turned = _agent(played), _agent(played, [FEATURES[place] for place in order])
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = rng.integers(0, 256, 4).astype(np.uint8) if pixels else rng.normal(size=4)
        assert plain.get_action(state) == turned.get_action(state[order])
    last = np.arange(4, dtype=np.float32)
    plain.end_episode(final_state=last)
    first = _newest(played)
    turned.end_episode(final_state=last[order])
    second = _newest(played)

    assert first.meta["state_names"] == second.meta["state_names"] == FEATURES
    assert (first.states == second.states).all() and (first.final_state == second.final_state).all()
    assert (first.log_probs == second.log_probs).all() and first.states.dtype == np.float32


@pytest.mark.parametrize(
    ("features", "actions", "words"),
    [
        ([*FEATURES[:3], "mana"], ACTIONS, "its features are .*'time'.*this bot's are .*'mana'.*a root of its own"),
        ([*FEATURES, "mana"], ACTIONS, r"widen_model\.py --add-feature mana .*RLAgent\(grow=True\)"),
        (FEATURES, [*ACTIONS, "sleep"], r"widen_model\.py --add-action sleep .*RLAgent\(grow=True\)"),
        (FEATURES[:3], ACTIONS, "its features are .*'time'.*this bot's are"),
    ],
)
def test_an_agent_does_not_use_a_model_with_other_names(
    played: Paths, features: list[str], actions: list[str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says both lists, and how to go on; the game is played with a policy of its own."""
    agent = _agent(played, features, actions)

    assert re.search(words, caplog.text) and agent.model_version == 0
    assert agent.get_action(np.zeros(len(features)))[1] in actions


def test_a_state_with_fewer_numbers_than_names_costs_the_episode_only(played: Paths) -> None:
    """In strict mode it raises; otherwise the step is played, and the game is not saved."""
    with pytest.raises(EpisodeError, match="one for each of state_names"):
        _agent(played, FEATURES[::-1], strict=True).get_action([0.0, 0.0, 0.0])
    agent = _agent(played, FEATURES[::-1], strict=False)
    agent.get_action([0.0, 0.0, 0.0])
    assert "one for each of state_names" in agent.end_episode()["fault"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"state_names": ["a", "a"]},
        {"state_names": ["a", "b"], "state_width": 3},
        {"state_names": [f"{n:0100}" for n in range(900)]},
    ],
    ids=["twice", "another width", "more than a meta holds"],
)
def test_names_that_can_not_be_are_refused_at_once(paths: Paths, arguments: dict[str, Any]) -> None:
    """When the agent is made, not when the first game ends."""
    with pytest.raises(SettingsError, match="state_names"):
        RLAgent(root=paths.root, **arguments)


def test_a_growing_agent_widens_the_model_by_its_first_game(played: Paths) -> None:
    """It plays a widened copy at once; the learner makes the same one, goes on from it, and can train it all again."""
    turned = [WIDER[0][4], *FEATURES], [WIDER[1][3], *ACTIONS]
    agent = _agent(played, *turned, grow=True)
    assert agent.model_version == 2
    _game(agent, turned[0])
    found = _newest(played)
    assert found.meta["grow"] is True and found.meta["state_names"] == WIDER[0] and found.meta["action_names"] == WIDER[1]
    _play(played, "a_narrow_one.npz", 50)

    stats = _drain(played)

    wide = model_store.read(played.model)
    told = [line for line in ledger_lines.read_lines(played.ledger) if line["fate"] == "published"]
    assert [line["reason"] for line in told] == ["widened: feature mana and action sleep"]
    assert wide.layout.state_names == tuple(WIDER[0]) and wide.layout.action_names == tuple(WIDER[1])
    assert episodes.fates(played)["rejected"] == [] and stats["files_processed"] == 8
    assert "Identical" in run_tool("rebuild_model.py", played.root)
    assert "widened: feature mana and action sleep" in played.training_log.read_text("utf-8")
    agent.refresh()
    assert agent.model_version == wide.version
    _game(agent, turned[0], seed=1)
    assert "grow" not in _newest(played).meta
    _drain(played)
    assert len([line for line in ledger_lines.read_lines(played.ledger) if line["fate"] == "published"]) == 1


def test_what_a_growing_agent_plays_is_what_the_learner_will_make(played: Paths) -> None:
    """The log-probabilities of its episodes are those of the widened model, to the last bit."""
    agent = _agent(played, *WIDER, grow=True)
    own = agent._policy.network(5)

    _widen(played, "--add-feature", "mana", "--add-action", "sleep")

    wide = model_store.read(played.model)
    assert all((values == wide.arrays[name]).all() for name, values in zip(model_store.POLICY_KEYS, own, strict=True))


def test_the_root_decides_whether_its_model_grows(played: Paths) -> None:
    """With learner.grow off such an episode is rejected like any of other names; without `grow` in its meta, too."""
    _game(_agent(played, *WIDER, grow=True), WIDER[0])
    _play(played, "does_not_ask.npz", 60, *WIDER)

    learner_runs.drain(played.root, grow=False)

    assert len(episodes.fates(played)["rejected"]) == 2 and model_store.read(played.model).state_width == 4


@pytest.mark.parametrize(
    "spoil",
    [
        {"features": ["health", "gold", "wood", "mana", "luck"]},
        {"features": None, "actions": None},
        {"features": [*WIDER[0], "mana"]},
        {"grow": "yes"},
    ],
    ids=["lacks one", "no names", "twice", "not true"],
)
def test_an_episode_that_only_looks_like_growth_is_rejected(played: Paths, spoil: dict[str, Any]) -> None:
    """A strange file costs nothing but itself: the model stays as it is."""
    said = {"features": WIDER[0], "actions": WIDER[1], "grow": True} | spoil
    meta = _meta(said["features"], said["actions"], grow=said["grow"])
    episodes.write(played.buffer, "strange.npz", 70, width=len(said["features"] or WIDER[0]), action_count=4, meta=meta)

    _drain(played)

    assert episodes.fates(played)["rejected"] == ["strange.npz"] and model_store.read(played.model).version == 2


def test_killed_while_it_grows_the_learner_goes_on(played: Paths) -> None:
    """Before the commit the next start grows again to the same bytes; after it, it trains the episode."""
    _play(played, "grows.npz", 80, *WIDER, grow=True)
    reached: dict[str, bytes] = {}
    for moment in ("never", "before the commit", "before the line"):
        paths = Paths(played.root.with_name(moment))
        shutil.copytree(played.root, paths.root)
        if moment != "never":
            target = "model_store.commit" if moment == "before the commit" else "Ledger.record_published"
            code = GROWING_KILLED.format(target=target)
            environment = {**learner_runs.environment(), **dict.fromkeys(BLAS_THREAD_VARIABLES, "1")}
            environment["PYTHONPATH"] += os.pathsep + str(CHECKOUT / "tests")
            died = subprocess.run(
                [sys.executable, "-c", code, str(paths.root)], cwd=CHECKOUT, env=environment, timeout=60, capture_output=True
            )
            assert died.returncode == 9, died.stderr.decode()
            assert model_store.read(paths.model).state_width == (4 if moment == "before the commit" else 5)
        _drain(paths)
        reached[moment] = paths.model.read_bytes()
        assert len([line for line in ledger_lines.read_lines(paths.ledger) if line["fate"] == "published"]) == 1
    assert len(set(reached.values())) == 1


GROWING_KILLED = """
import os, sys
from pathlib import Path
import learner_runs
from background_training.storage import model_store
from background_training.records.ledger import Ledger
{target} = lambda *arguments, **more: os._exit(9)
learner_runs.drain(Path(sys.argv[1]))
"""


def test_the_doctor_expects_no_rejection_of_what_will_be_padded(played: Paths) -> None:
    """Games from before a widening that still wait fit the model, so the doctor does not call them misfits."""
    _widen(played, "--add-feature", "mana", "--add-action", "sleep")
    for number in range(5):
        _play(played, f"old_{number}.npz", 90 + number)

    command = [sys.executable, str(CHECKOUT / "tools" / "doctor.py"), "--root", str(played.root)]
    said = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60).stdout

    assert "old_" not in said and "the model takes" not in said
