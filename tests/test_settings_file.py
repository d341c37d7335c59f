"""Files, environment and flags: later wins, and each refusal says where the value was found."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import yaml

from background_training import BackgroundParallelLearner, RLAgent, settings_file
from background_training.errors import SettingsError
from background_training.paths import CHECKOUT
from background_training.settings import RENAMED, Settings


@pytest.fixture
def config(root: Path) -> Path:
    return root / "mine.yaml"


def test_the_default_file_holds_every_setting_and_its_default():
    """File and dataclasses are one list: same keys, same values."""
    content = yaml.safe_load(settings_file.DEFAULT_FILE.read_text(encoding="utf-8"))

    assert not content.pop("root")
    assert content == settings_file.as_sections(Settings())


@pytest.mark.parametrize("name", ["short_arcade", "long_strategy"])
def test_the_files_for_kinds_of_games_are_what_the_page_says(name: str):
    """They can be loaded, and each value stands in the table of docs/how-to/choose-settings.md."""
    page = (CHECKOUT / "docs" / "how-to" / "choose-settings.md").read_text("utf-8")
    row = "`short_arcade.yaml` | defaults | `long_strategy.yaml`"
    table = page[page.index(row) : page.index("These values are reasoned")]
    path = CHECKOUT / "config" / f"{name}.yaml"
    settings_file.load(config=path)

    for section in yaml.safe_load(path.read_text("utf-8")).values():
        for key, value in section.items():
            shown = {900.0: "15 minutes", 86400.0: "a day"}.get(value, str(value))
            assert any(f"`{key}`" in line and shown in line for line in table.splitlines()), key


def test_the_default_file_explains_every_setting():
    """Each key has its sentence above it; `python docs/make_settings.py` writes the file anew."""
    words = " ".join(settings_file.DEFAULT_FILE.read_text(encoding="utf-8").replace("#", " ").split())

    for section in settings_file.as_sections(Settings()):
        for field in dataclasses.fields(getattr(Settings(), section)):
            assert " ".join(field.metadata["sentence"].split()) in words, f"{section}.{field.name}"


def test_any_settings_survive_the_way_through_a_file(config: Path):
    """As YAML for people, and as the sections that a worker gets; odd values included."""
    settings = Settings().with_values(
        "test",
        learning={"learning_rate": 1e-7, "gamma": 1.0},
        replays={"folder": "C:\\Replays: neue # ä", "move_analysed_to": "yes"},
        limits={"max_magnitude": 1e30},
    )
    sections = settings_file.as_sections(settings)
    for dump in (yaml.safe_dump, json.dumps):
        config.write_text(dump(sections), encoding="utf-8")

        assert settings_file.load(config) == settings
    assert settings_file.from_sections(settings.root, sections) == settings


def test_later_wins(config: Path, root: Path):
    """Default, then file, then environment, then flags; a flag that was not given changes nothing."""
    config.write_text("learner: {batch_size: 2, max_workers: 3, max_file_age: 4, report_seconds: 5}", encoding="utf-8")
    environment = {"LOCAL_TRAINING_LEARNER_MAX_WORKERS": "6", "LOCAL_TRAINING_LEARNER_MAX_FILE_AGE": "7"}
    flags = {"learner": {"max_file_age": 8.0, "batch_size": None}}

    learner = settings_file.load(config, environment, flags).learner

    assert (learner.batch_size, learner.max_workers, learner.max_file_age, learner.report_seconds) == (2, 6, 8.0, 5.0)
    assert learner.rescan_seconds == Settings().learner.rescan_seconds


def test_the_root_comes_from_file_environment_or_flag(config: Path, root: Path):
    """In this order; always as an absolute path."""
    config.write_text(f"root: {root / 'from file'}", encoding="utf-8")
    environment = {"LOCAL_TRAINING_ROOT": str(root / "from environment")}

    assert settings_file.load(config).root == root / "from file"
    assert settings_file.load(config, environment).root == root / "from environment"
    assert settings_file.load(config, environment, root=root / "from flag").root == root / "from flag"
    assert settings_file.load(environment={"LOCAL_TRAINING_ROOT": "here"}).root == Path.cwd() / "here"
    assert settings_file.load(environment={"LOCAL_TRAINING_ROOT": ""}).root == Settings().root


def test_the_variables_of_the_guides_still_work():
    """REPLAY_ARCHIVE_DIR and NUM_INSTANCES, and a text stays a text even if it looks like a number."""
    settings = settings_file.load(environment={"REPLAY_ARCHIVE_DIR": "2026", "NUM_INSTANCES": "4", "UNRELATED": "x"})

    assert (settings.replays.folder, settings.games.instances) == ("2026", 4)


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_a_number_may_be_written_in_any_way(text: str, config: Path):
    """To YAML 1e-3 is a text; to a person it is a number."""
    config.write_text(f"learning:\n  learning_rate: {text}\n", encoding="utf-8")

    assert settings_file.load(config).learning.learning_rate == 0.001
    assert settings_file.load(environment={"LOCAL_TRAINING_LEARNING_LEARNING_RATE": text}).learning.learning_rate == 0.001


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learner: {batch_size: 0}", "learner.batch_size is 0; a whole number, at least 1, at most 1000 is needed"),
        ("learner: {batch_size: '5'}", "learner.batch_size is '5'; a whole number, at least 1"),
        ("learner: {verbose: 'no'}", "learner.verbose is 'no'; true or false is needed"),
        ("learner: {durability: maybe}", "learner.durability is 'maybe'; one of full, fast is needed"),
        ("learning: {gamma: .nan}", "learning.gamma is nan; a number, at least 0.0, at most 1.0 is needed"),
        ("learning: {gamma: none}", "learning.gamma is 'none'; a number"),
        ("lerner: {batch_size: 1}", "known sections are root, learner, limits"),
        ("learner: {batch: 1}", "learner.batch is 1; known keys are backlog_steps, batch_size"),
        ("learner: {share_from: 0}", "learner.share_from is 0; this setting has been removed, as training no longer uses"),
        ("learning: {trace: 0.9}", "learning.trace is 0.9; this setting is now called learning.gae_lambda: rename it"),
        ("games: {lead: 0}", "games.lead is 0; this setting is now called games.max_episodes_ahead: rename it"),
        ("learner: {1: 1}", "learner.1 is 1; known keys are"),
        ("learner: 5", "learner is 5; keys with values are needed"),
        ("learner:", "learner is None; keys with values are needed"),
        ("root: 5", "root is 5; a path is needed"),
        ("[1, 2]", "config is 'list'; sections with keys are needed"),
        ("learner: {batch_size: [", "YAML is needed"),
        ("!!python/object/apply:os.getcwd []", "YAML is needed"),
    ],
)
def test_a_bad_file_is_refused_by_name(text: str, sentence: str, config: Path):
    """The sentence names the file, the key, the value and what is allowed, in one line."""
    config.write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError) as caught:
        settings_file.load(config)

    assert sentence in str(caught.value) and str(config) in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_file_that_can_not_be_read_is_refused(config: Path):
    """One that is missing, a folder, or no text."""
    with pytest.raises(SettingsError, match="a file that can be read is needed"):
        settings_file.load(config)
    with pytest.raises(SettingsError, match="a file that can be read is needed"):
        settings_file.load(config.parent)
    config.write_bytes(b"\xff\xfe\x00learner")
    with pytest.raises(SettingsError, match="YAML is needed"):
        settings_file.load(config)


def test_an_empty_file_changes_nothing(config: Path):
    """A file of comments is a good beginning."""
    config.write_text("# nothing yet\n", encoding="utf-8")

    assert settings_file.load(config) == Settings()


@pytest.mark.parametrize("value", ["many", "1.5", "[", "true"])
def test_a_bad_variable_is_refused_by_name(value: str):
    """The message names the variable."""
    with pytest.raises(SettingsError, match=r"environment variable NUM_INSTANCES: games\.instances is"):
        settings_file.load(environment={"NUM_INSTANCES": value})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LOCAL_TRAINING_LERNER_BATCH_SIZE", "LOCAL_TRAINING_LEARNER_BATCH_SIZE"),
        ("LOCAL_TRAINING_BATCH_SIZE", "LOCAL_TRAINING_LEARNER_BATCH_SIZE"),
        ("local_training_learner_batch_size", "LOCAL_TRAINING_LEARNER_BATCH_SIZE"),
        ("LOCAL_TRAINING_ROOTS", "LOCAL_TRAINING_ROOT"),
    ],
)
def test_a_misspelt_variable_is_refused_and_the_nearest_one_named(name: str, nearest: str):
    """Otherwise the user would wait for an effect that never comes."""
    with pytest.raises(SettingsError) as caught:
        settings_file.load(environment={name: "5"})

    assert str(caught.value) == f"environment variable: {name} is '5'; no setting has this name; the nearest is {nearest}"


def test_a_variable_of_a_setting_that_is_gone_is_refused_with_the_reason():
    """As in a file: no other setting is offered in its place."""
    with pytest.raises(SettingsError) as caught:
        settings_file.load(environment={"LOCAL_TRAINING_LEARNER_SHARE_FROM": "0"})

    assert "LOCAL_TRAINING_LEARNER_SHARE_FROM is '0'; this setting has been removed" in str(caught.value)


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_a_former_name_of_a_setting_is_refused_with_the_present_one(old: str, config: Path):
    """In a file and in a variable; the present name takes the same value."""
    section, key = old.split(".")
    new, value = RENAMED[old], getattr(getattr(Settings(), section), RENAMED[old])
    config.write_text(json.dumps({section: {key: value}}), encoding="utf-8")

    with pytest.raises(SettingsError, match=f"; this setting is now called {section}.{new}: rename it$"):
        settings_file.load(config)
    prefix = f"LOCAL_TRAINING_{section.upper()}_"
    with pytest.raises(SettingsError, match=f"; this variable is now called {prefix}{new.upper()}: rename it$"):
        settings_file.load(environment={f"{prefix}{key.upper()}": str(value)})
    assert settings_file.load(environment={f"{prefix}{new.upper()}": str(value)}) == Settings()


def test_variables_that_are_no_settings_are_left_alone():
    """Empty ones count as not set; other programs' names, and those kept free for the user's scripts, are not ours."""
    environment = {"LOCAL_TRAINING_LERNER_BATCH_SIZE": "", "LOCAL_TRAINING_X_NOTE": "mine", "MY_LOCAL_TRAINING_NOTE": "x"}

    assert settings_file.load(environment=environment) == Settings()


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("lerner: {batch_size: 1}", "learner"), ("learner: {batchsize: 1}", "batch_size"), ("rot: here", "root")],
)
def test_a_misspelt_key_of_a_file_is_told_the_nearest_one(text: str, nearest: str, config: Path):
    """Beside the list of all."""
    config.write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError, match=f"; the nearest is {nearest}$"):
        settings_file.load(config)


COMMANDS = {
    "background_training.commands.run": [],
    "background_training.commands.learn": ["--drain"],
    "background_training.commands.monitor": ["--once"],
    "background_training.commands.tensorboard": ["--once"],
    "background_training.commands.explain": ["--all"],
    "background_training.commands.rebuild": [],
    "background_training.commands.rollback": ["1"],
    "background_training.commands.widen": ["--add-feature", "x"],
    "background_training.commands.report": [],
    "background_training.commands.evaluate": [],
    "background_training.commands.replays": ["."],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_misspelt_variable(
    command: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """One line and exit code 2, before anything is done."""
    monkeypatch.setenv("LOCAL_TRAINING_LEARNER_MAX_FILEAGE", "0")

    exit_code = importlib.import_module(command).main([*COMMANDS[command], "--root", str(root)])

    printed = capsys.readouterr()
    told = "[ERROR] environment variable: LOCAL_TRAINING_LEARNER_MAX_FILEAGE is '0'; no setting has this name; the nearest is "
    assert printed.err == f"{told}LOCAL_TRAINING_LEARNER_MAX_FILE_AGE\n" and printed.out == ""
    assert exit_code == 2 and list(root.iterdir()) == []


def test_an_agent_and_a_learner_in_a_game_refuse_a_misspelt_variable(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The bot's author sees it at the first start."""
    monkeypatch.setenv("LOCAL_TRAINING_LEARNING_GAMA", "0.9")
    for kind in (RLAgent, BackgroundParallelLearner):
        with pytest.raises(SettingsError, match=r"LOCAL_TRAINING_LEARNING_GAMA is '0.9'.* LOCAL_TRAINING_LEARNING_GAMMA$"):
            kind(root=root)
