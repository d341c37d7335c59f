"""Give the model further features or actions and keep what it has learnt: python tools/widen_model.py --help"""

from __future__ import annotations

import argparse

from background_training import command_lines
from background_training.commands import common
from background_training.ipc import process_limits
from background_training.storage.file_lock import both_locks


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("widen"),
        description="Publish the model with further features or actions as the next version. What it has learnt stays as it is.",
    )
    common.add_common(parser)
    parser.add_argument("--add-feature", nargs="+", default=[], metavar="NAME", help="add these numbers at the end of a state")
    parser.add_argument("--add-action", nargs="+", default=[], metavar="NAME", help="add these actions after the others")
    called = "what the model's present {} are called from now on, in its order"
    parser.add_argument("--state-names", nargs="+", default=[], metavar="NAME", help=called.format("features"))
    parser.add_argument("--action-names", nargs="+", default=[], metavar="NAME", help=called.format("actions"))
    parser.add_argument(
        "--probability",
        type=_probability,
        default=0.01,
        metavar="P",
        help="at most so likely are the added actions together at first, in any state (0.01)",
    )
    return parser


def _probability(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 0.5:
        raise argparse.ArgumentTypeError(f"a number between 0 and 0.5 is needed (got {text})")
    return value


def _run(options: argparse.Namespace) -> int:
    wanted = (options.add_feature, options.add_action, options.state_names, options.action_names)
    if not any(wanted):
        _parser().error("nothing to do: give --add-feature, --add-action, --state-names or --action-names")
    # Before NumPy is loaded: a version that has to be trained again takes its bits from it.
    process_limits.limit_blas_threads()
    from background_training.learner import publish, recovery

    settings = common.settings_of(options)
    paths = settings.paths
    common.check_there_is_a_run(paths)
    with both_locks(paths):
        recovery.make_skeleton(paths, durable=settings.learner.durable)
        made = publish.widen(paths, settings, publish.Widening(*wanted, options.probability), _warn)
    layout = made.layout
    sizes = f"takes states of {layout.state_width} numbers and chooses {layout.actions.words}"
    common.answer(f"[OK] Version {made.version} {sizes}: {paths.model}")
    for what, names, flag in (("features", layout.state_names, "state"), ("actions", layout.action_names, "action")):
        if not names and (options.add_feature if flag == "state" else options.add_action):
            common.answer(f"[INFO] Its {what} have no names, so their order counts; --{flag}-names gives them names")
    return 0


def _warn(sentence: str) -> None:
    common.answer(f"[WARNING] {sentence}")
