"""Settings are frozen, checked when made, and every refusal names the key, the value and the range."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from background_training.errors import SettingsError
from background_training.paths import default_root
from background_training.settings import LearnerSettings, LearningSettings, LimitSettings, Settings, in_recorded_names, needed

SECTIONS = [field.name for field in dataclasses.fields(Settings) if field.name != "root"]
FIELDS = [
    pytest.param(section, field, id=f"{section}.{field.name}")
    for section in SECTIONS
    for field in dataclasses.fields(getattr(Settings(), section))
]


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_every_setting_says_what_it_is(section: str, field: dataclasses.Field[Any]):
    """A sentence with a full stop, a default of its own type that is allowed, and a range in words."""
    assert field.metadata["sentence"].endswith(".") and field.metadata["sentence"][0].isalnum()
    assert type(getattr(getattr(Settings(), section), field.name)).__name__ == field.type
    assert needed(field).endswith(" is needed")


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_a_value_out_of_range_is_refused(section: str, field: dataclasses.Field[Any]):
    """Just beyond each bound, and of each wrong type; just on a bound that belongs to the range is taken."""
    data = field.metadata
    refused: list[Any] = [None, [1], {"a": 1}]
    taken: list[Any] = []
    if field.type in ("int", "float"):
        step = 1 if field.type == "int" else 1e-9
        refused += ["1", True, float("nan")] + ([1.5] if field.type == "int" else [])
        if data["at_least"] is not None:
            refused.append(data["at_least"] - step)
            taken.append(type(field.default)(data["at_least"]))
        if data["above"] is not None:
            refused.append(data["above"])
        if data["at_most"] is not None:
            refused.append(data["at_most"] * (1 + 1e-9) if field.type == "float" else data["at_most"] + 1)
            taken.append(type(field.default)(data["at_most"]))
    elif field.type == "bool":
        refused += [0, 1, "yes"]
        taken += [True, False]
    else:
        refused += [1, True] + (["neither"] if data["choices"] else [])
        taken += list(data["choices"])

    for value in refused:
        with pytest.raises(SettingsError, match=field.name) as caught:
            Settings().with_values("flags", **{section: {field.name: value}})
        assert caught.value.source == "flags" and caught.value.key == f"{section}.{field.name}"
        assert needed(field) in str(caught.value) and repr(value) in str(caught.value)
    for value in taken:
        assert getattr(getattr(Settings().with_values("flags", **{section: {field.name: value}}), section), field.name) == value


def test_the_defaults_are_those_of_the_guides():
    """What users know stays: batches of 10, an hour, reports every 30 s, two workers, a learning rate of 0.001."""
    learner, learning = LearnerSettings(), LearningSettings()

    assert (learner.batch_size, learner.max_file_age, learner.report_seconds, learner.max_workers) == (10, 3600.0, 30.0, 2)
    assert (learner.rescan_seconds, learning.learning_rate) == (5.0, 0.001)
    assert Settings().root == default_root()


def test_settings_are_frozen():
    """Nobody changes a setting behind another's back."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        LearnerSettings().batch_size = 3  # type: ignore[misc]


def test_an_unknown_key_is_refused_with_the_known_ones():
    """A slip of the pen is not a silent default."""
    with pytest.raises(SettingsError, match=r"learner\.batchsize is 5; known keys are backlog_steps, batch_size") as caught:
        Settings().with_values("my.yaml", learner={"batchsize": 5})

    assert str(caught.value).startswith("my.yaml: ")


def test_a_whole_number_serves_where_a_number_is_wanted():
    """3600 is as good as 3600.0, and becomes it, so that equal settings compare equal."""
    settings = Settings().with_values("flags", learner={"max_file_age": 10})

    assert settings.learner.max_file_age == 10.0 and type(settings.learner.max_file_age) is float


def test_other_sections_stay_as_they_are():
    """Replacing a value makes a copy; nothing else changes, and the old one stays."""
    before = Settings()

    after = before.with_values("flags", learning={"hidden_size": 8})

    assert (after.learning.hidden_size, before.learning.hidden_size) == (8, 64)
    assert after.learner is before.learner and after.limits == LimitSettings()


def test_settings_travel_to_another_process():
    """The worker gets the same ones."""
    settings = Settings().with_values("flags", learner={"batch_size": 3})

    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_text_of_a_version_is_made_again_with_the_names_it_was_written_with():
    """The reason of a rejected update is part of a version's bytes, and names a setting."""
    text = "a reward was more than learning.reject_reward_ratio times the largest return so far"

    assert in_recorded_names(text, {"reward_jump": 3000.0}) == text.replace("reject_reward_ratio", "reward_jump")
    assert in_recorded_names(text, dataclasses.asdict(LearningSettings())) == text
