"""What all commands share: the common flags, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from background_training import command_lines, printable, settings_file
from background_training.commands import script
from background_training.errors import BackgroundTrainingError, MachineError, SettingsError
from background_training.paths import Paths
from background_training.settings import Settings

USAGE_ERROR = 2
_BAR_WIDTH = 30
_PIPED_SECONDS = 10.0


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add --root, --config and --debug."""
    parser.add_argument("--root", type=_folder, metavar="DIR", help="folder with data/, models/ and logs/")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings that differ from config/default.yaml")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")


def add_game_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --game and the options of a game.

    Args:
        default: what is played without --game, for the help.
    """
    parser.add_argument("--game", metavar="ID", help=f"Gymnasium id of the game, or MODULE:FACTORY ({default})")
    parser.add_argument(
        "--game-module",
        metavar="MODULE[:FUNCTION]",
        help="module to import, and function to call, so that the game is registered",
    )
    parser.add_argument(
        "--game-args", nargs="+", metavar="KEY=VALUE", help="arguments of gymnasium.make: obs_type=ram frameskip=4"
    )
    parser.add_argument(
        "--game-opponent", choices=("random", "self"), help="who plays the other players of a PettingZoo game (random)"
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="cut a game after this many steps")


def governor_flags(options: argparse.Namespace) -> dict[str, Any]:
    """What --overnight sets."""
    return {"profile": "overnight" if options.overnight else None}


def game_words(options: argparse.Namespace) -> list[str]:
    """The options of a game as words, as GameSpec.with_options takes them."""
    words: list[str] = []
    for flag in ("--game-module", "--game-opponent", "--max-steps"):
        value = getattr(options, flag[2:].replace("-", "_"))
        words += [] if value is None else [flag, str(value)]
    return [*words, "--game-args", *options.game_args] if options.game_args else words


def _folder(text: str) -> Path:
    """A folder's name; an empty one, as from an unset variable of a script, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder is needed, and it is empty")
    return Path(text)


def find_modules_of_current_folder() -> None:
    """Let `--game module:ID` name a module of the current folder, which a console script does not look into.

    The path ends with it, so that no file there shadows an installed module. Child processes get the same path.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def check_at_least(**flags: tuple[int, int]) -> None:
    """Refuse numbers that are too small.

    Args:
        flags: per flag, without its dashes, the value and the smallest one that is allowed.

    Raises:
        SettingsError: one is.
    """
    for name, (value, least) in flags.items():
        if value < least:
            raise SettingsError(f"--{name}", value, f"a whole number, at least {least}, is needed", "command line")


def need_packages(*names: str) -> None:
    """Check that packages which another process will import are installed.

    Raises:
        ModuleNotFoundError: one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def output_file(text: str) -> Path:
    """The name of an output file; since it is renamed into place, it must not be a device or a pipe."""
    path = Path(text)
    if not text or (path.exists() and not path.is_file()):
        raise argparse.ArgumentTypeError(f"the name of a file is needed, and {text!r} is none")
    return path


def check_there_is_a_run(paths: Paths) -> None:
    """Refuse a root without data, so that a mistyped name makes no folders.

    Raises:
        MachineError: no learner has worked in this root.
    """
    if not paths.data.is_dir():
        raise MachineError(f"reading {paths.root}", "there is no run in it; --root names the folder that holds data/")


def settings_of(options: argparse.Namespace, **flags: Mapping[str, Any]) -> Settings:
    """The settings under these options: files, then environment, then flags (by section; None is "not given").

    Raises:
        SettingsError: an unknown key or a value that is not allowed; a root that can't be a folder.
        MachineError: the root can't be reached, or not be made.
    """
    settings = settings_file.load(options.config, os.environ, flags, options.root)
    check_root(settings.root)
    return settings


_IMPOSSIBLE_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
_REASONS = {
    errno.ENOENT: "it is not there, and the system makes nothing of this name",
    errno.ENOTDIR: "a part of its name is a file, not a folder",
    errno.EEXIST: "something else is there under this name",
    errno.EISDIR: "it is a folder; a file is needed",
    errno.EACCES: "this user has no permission",
    errno.EPERM: "the system does not allow it",
    errno.EROFS: "its file system is read-only",
    errno.ENOSPC: "No space left on the disk",
    errno.EDQUOT: "this user's disk quota is used up",
    errno.EIO: "the disk reports an input/output error",
    errno.EMFILE: "this process has too many files open",
    errno.ENFILE: "this machine has too many files open",
    errno.ENAMETOOLONG: "the name is longer than the file system allows",
    errno.EINVAL: "the file system allows no such name",
    errno.ELOOP: "its links lead in a circle",
}
"""The system's error numbers in words."""


def check_root(root: Path) -> None:
    """Refuse a root that is no folder and can't become one. Nothing is made.

    Raises:
        SettingsError: its name is impossible, or it or a part of it is a file.
        MachineError: the machine does not let this user reach it, or make it.
    """
    try:
        os.stat(root / "data")  # a path below it, since the root must be enterable
    except ValueError:  # a NUL, or letters that no file system can store
        raise _no_root(root, "a name without NUL and half letters is needed") from None
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise _no_root(root, _file_in_the_way(root)) from None
    except OSError as error:
        if error.errno in _IMPOSSIBLE_NAMES:
            raise _no_root(root, f"{_REASONS[error.errno]}; another name is needed") from None
        raise MachineError(f"opening the root {root}", reason_of(error)) from None
    if root.exists():
        return
    if root.is_symlink():
        raise _no_root(root, f"it is a link to {os.readlink(root)}, where nothing is; a folder is needed")
    above = next((folder for folder in root.parents if folder.exists()), None)
    if above is None:
        raise _no_root(root, f"there is no drive {root.anchor} on this machine")
    if not above.is_dir():  # Windows calls this a missing file, not a file in the way
        raise _no_root(root, _file_in_the_way(root))
    if not os.access(above, os.W_OK | os.X_OK):
        raise MachineError(f"making the root {root}", f"{above} may not be written to by this user")


def make_root(root: Path) -> None:
    """Make a root's folder if it is missing; for commands that write to it.

    Raises:
        SettingsError, MachineError: as `check_root` does.
    """
    check_root(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _IMPOSSIBLE_NAMES:
            raise _no_root(root, f"{_REASONS[error.errno]}; another name is needed") from None
        raise MachineError(f"making the root {root}", reason_of(error)) from None
    if not os.access(root, os.W_OK | os.X_OK):
        raise MachineError(f"opening the root {root}", "it may not be written to by this user")


def _no_root(root: Path, needed: str) -> SettingsError:
    text = str(root)
    shown = text if len(text) <= 120 else f"{text[:60]}...{text[-20:]}"
    return SettingsError("the root", shown, needed, "--root")


def _file_in_the_way(root: Path) -> str:
    file = next(path for path in (*reversed(root.parents), root) if path.exists() and not path.is_dir())
    return f"a folder is needed, and {'it' if file == root else file} is a file"


def reason_of(error: OSError) -> str:
    """Why the machine failed, in words; the system's own text if `_REASONS` has none."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def answer(text: str) -> None:
    """Print a result; a reader that closes the pipe, such as head, does not end the command."""
    try:
        print(text)
    except OSError as error:
        if not printable.reader_is_gone(error):
            raise


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    arguments: list[str] | None = None,
) -> int:
    """Run a command and turn its errors into one line on stderr and an exit code.

    SIGTERM, and Ctrl+Break on Windows, end it as Ctrl+C does.

    Returns:
        0 success, 1 failure, 2 bad usage, 3 another learner is at work, 4 the folder can't be locked,
        5 the machine failed (disk, permission), 6 the user has paused the root, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        printable.prepare(stream)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with contextlib.suppress(ValueError):  # only the main thread may set a handler
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if sys.platform == "win32":  # Ctrl+Break, and a console window that is closed
            signal.signal(signal.SIGBREAK, signal.default_int_handler)
    try:
        code = command(options)
        _write_out()
        return code
    except KeyboardInterrupt:
        return script.INTERRUPTED
    except BackgroundTrainingError as error:
        return _failed(error, error.exit_code, options.debug)
    except OSError as error:
        return _failed(error, MachineError.exit_code, options.debug)
    except Exception as error:  # noqa: BLE001  # the process's main: it becomes a line and an exit code
        if script.was_interrupted(error):
            return script.INTERRUPTED
        return _failed(error, 1, options.debug)


def _write_out() -> None:
    """Flush stdout here and not at the end of the process, which would set an exit code of its own.

    Raises:
        OSError: the disk is full, for example; not for a closed pipe.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if not printable.reader_is_gone(error):
            raise


def _failed(error: Exception, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    sentence = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, BackgroundTrainingError) and error.errno in _REASONS:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        sentence = f"{names}: {reason_of(error)}" if names else reason_of(error)
    if not isinstance(error, (BackgroundTrainingError, OSError)):
        sentence = f"{type(error).__name__}: {sentence}"
    sentence = command_lines.missing_package(error) or sentence
    print(f"[ERROR] {sentence}", file=sys.stderr)
    return exit_code


class ProgressBar:
    """Shows the progress of a long command on stderr.

    On a terminal it is a bar that is redrawn, elsewhere a line every ten seconds: enough for a log, and none for a short command.
    """

    def __init__(
        self, things: str, *, enabled: bool = True, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`things` is what is counted, as in "replays"."""
        self._things, self._enabled, self._clock = things, enabled, clock
        self._out = sys.stderr if out is None else out
        self._is_terminal = self._out.isatty()
        self._started = self._last_shown = clock()
        self._is_open = False

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        now = self._clock()
        if not self._enabled or (not self._is_terminal and now - self._last_shown < _PIPED_SECONDS):
            return
        self._last_shown = now
        words = f"{done}/{total} {self._things}, {done / max(1e-3, now - self._started):.1f}/s"
        if self._is_terminal:
            filled = _BAR_WIDTH * done // max(1, total)
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            print(f"\r[{bar}] {words} ", end="", file=self._out, flush=True)
            self._is_open = True
        else:
            print(f"[INFO] {words}", file=self._out, flush=True)

    def end(self) -> None:
        """End the bar's line, if there is one."""
        if self._is_open:
            print(file=self._out)
            self._is_open = False
