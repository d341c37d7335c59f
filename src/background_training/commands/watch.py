"""See the model play, in a window or as an animated GIF: background-training watch --help"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from background_training import command_lines
from background_training.commands import common
from background_training.errors import SettingsError
from background_training.ipc import process_limits

if TYPE_CHECKING:
    from background_training.runs.evaluation import Contender
    from background_training.runs.gymnasium_game import GymnasiumGame

_USUAL_FRAMES_PER_SECOND = 15.0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    process_limits.limit_blas_threads()
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("watch"),
        description="See the present model play, greedily: in a window, or as an animated GIF. Nothing is recorded.",
    )
    common.add_common(parser)
    parser.add_argument("--game", metavar="ID", help="Gymnasium id of the game (the root's)")
    parser.add_argument(
        "--model", metavar="MODEL", help="a file, or the number of a version of the root's model; by default the newest"
    )
    parser.add_argument("--games", type=int, default=3, metavar="N", help="games to play (3)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same games (0)")
    parser.add_argument(
        "--file",
        type=common.output_file,
        metavar="FILE.gif",
        help="write an animated GIF instead of opening a window; where there is no screen, logs/watch.gif of the root is written",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    common.find_modules_of_current_folder()
    common.check_at_least(games=(options.games, 1), seed=(options.seed, 0))
    if options.file is not None and options.file.suffix.lower() != ".gif":
        raise SettingsError("--file", str(options.file), "a name that ends in .gif is needed", "command line")
    from background_training.runs import evaluation, root_game
    from background_training.runs.gymnasium_game import GymnasiumGame

    settings = common.settings_of(options, games={"game": options.game})
    paths = settings.paths
    name = root_game.of_settings(settings, options.game)
    contender = evaluation.contender(paths, options.model or str(paths.model))
    seeds = range(evaluation.FIRST_SEED + options.seed, evaluation.FIRST_SEED + options.seed + options.games)
    in_window = options.file is None and has_screen()
    if not in_window:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # otherwise games that draw by pygame look for a screen
    with closing(GymnasiumGame(name, render_mode="human" if in_window else "rgb_array")) as game:
        evaluation.check_fits(contender.model, contender.source, game, name)
        if in_window:
            returns, ending = evaluation.returns_of(game, contender.model, seeds, greedy=True), ""
        else:
            returns, ending = _into_a_file(game, name, contender, seeds, options.file or paths.logs / "watch.gif")
    mean = f", mean {sum(returns) / len(returns):.1f}" if len(returns) > 1 else ""
    games = "1 game" if len(returns) == 1 else f"{len(returns)} games"
    listed = ", ".join(f"{value:.1f}" for value in returns)
    common.answer(f"[OK] Version {contender.model.version} played {games} of {name}, greedily; returns: {listed}{mean}{ending}")
    return 0


def has_screen() -> bool:
    """Whether a window can be opened: on Windows and macOS always, elsewhere if a display server is named."""
    if os.environ.get("SDL_VIDEODRIVER") == "dummy":
        return False
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _into_a_file(game: GymnasiumGame, name: str, contender: Contender, seeds: range, file: Path) -> tuple[list[float], str]:
    """Play, and write the GIF; the returns, and a line about the file."""
    from background_training.runs import evaluation
    from background_training.runs.animation import Animation
    from background_training.storage import atomic_files

    animation = Animation(game.frames_per_second or _USUAL_FRAMES_PER_SECOND)
    returns: list[float] = []
    for number, seed in enumerate(seeds, start=1):
        caption = ""

        def draw(steps: int, total: float, number: int = number) -> None:
            nonlocal caption
            caption = f"{name}  version {contender.model.version}  game {number}/{len(seeds)}  step {steps}  return {total:.1f}"
            animation.add(game.frame, caption)

        returns.append(evaluation.play(game, contender.model, seed, greedy=True, on_step=draw))
        animation.add(game.frame, caption, is_last=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_atomically(file, animation.gif(), durable=False)
    note = " (the beginning only: the games are too long for one file)" if animation.is_full else ""
    return returns, f"\n[OK] Written: {file}{note}"
