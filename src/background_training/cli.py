"""The console script `background-training`: one verb for each script of the checkout."""

from __future__ import annotations

import difflib
import sys

from background_training import command_lines
from background_training.commands import script

VERBS = {
    "run": ("run", "play a game and learn beside it"),
    "learn": ("learn", "the learner alone; --drain trains on what waits, then exits"),
    "monitor": ("monitor", "watch the training: terminal, --web, --once; --pause and --resume"),
    "selfcheck": ("selfcheck", "check on this machine that the training works"),
    "evaluate": ("evaluate", "how good a model is, with confidence intervals"),
    "watch": ("watch", "see the model play: in a window, or as an animated GIF"),
    "check-game": ("check_game", "play a game at random, and name what will keep a bot from learning it"),
    "check-episode": ("check_episode", "whether a learner accepts episode files, and why not"),
    "explain": ("explain", "what became of an episode file"),
    "rebuild": ("rebuild", "train the archive again"),
    "rollback": ("rollback", "publish an earlier version of the model as the next one"),
    "widen": ("widen", "add features or actions to a model"),
    "report": ("report", "write a page about a run"),
    "doctor": ("doctor", "find what is set up wrongly"),
    "tensorboard": ("tensorboard", "export the metrics for TensorBoard"),
    "replays": ("replays", "analyse StarCraft II replays"),
}
"""Verb -> (module of background_training.commands, what it does)."""


def main(program: str = "background-training") -> None:
    """Run the verb that the command line names, and exit with its code.

    Args:
        program: how the user started it, for usage lines and messages.
    """
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if given in ("-h", "--help"):
        print(_usage(program))
        sys.exit(0)
    if given == "--version":
        from background_training import __version__

        print(f"background-training {__version__} (Python {sys.version.split()[0]})")
        sys.exit(0)
    if given not in VERBS:
        near = difflib.get_close_matches(given, VERBS, n=1)
        hint = f". Did you mean {near[0]}?" if near else f"; known are {', '.join(VERBS)}"
        print(f"[ERROR] unknown command {given!r}{hint}", file=sys.stderr)
        sys.exit(2)
    command_lines.started_as(program)
    sys.argv[:2] = [f"{program} {given}"]
    script.run(f"background_training.commands.{VERBS[given][0]}", quietly=given in ("monitor", "tensorboard"))


def _usage(program: str) -> str:
    rows = [f"  {verb:<14} {what}" for verb, (_, what) in VERBS.items()]
    last = f"{program} VERB --help shows the options of a command, --version the version."
    return "\n".join([f"usage: {program} VERB [options]", "", *rows, "", last])
