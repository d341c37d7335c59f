"""The console script `background-training`: one verb for each script of the checkout."""

from __future__ import annotations

import sys

from background_training.commands import script

VERBS = {
    "run": ("run", "play a game and learn beside it"),
    "learn": ("learn", "the learner alone; --drain trains on what waits, then exits"),
    "monitor": ("monitor", "watch the training: terminal, --web, --once; --pause and --resume"),
    "selfcheck": ("selfcheck", "check on this machine that the training works"),
    "evaluate": ("evaluate", "how good a model is, with confidence intervals"),
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


def main() -> None:
    """Run the verb that the command line names, and exit with its code."""
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if given in ("-h", "--help"):
        print(_usage())
        sys.exit(0)
    if given not in VERBS:
        print(f"[ERROR] unknown command {given!r}; known are {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv[:2] = [f"background-training {given}"]
    script.run(f"background_training.commands.{VERBS[given][0]}", quietly=given in ("monitor", "tensorboard"))


def _usage() -> str:
    rows = [f"  {verb:<12} {what}" for verb, (_, what) in VERBS.items()]
    last = "background-training VERB --help shows the options."
    return "\n".join(["usage: background-training VERB [options]", "", *rows, "", last])
