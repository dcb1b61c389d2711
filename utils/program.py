# SPDX-License-Identifier: Apache-2.0
"""How every command line of this project starts and ends: `program.start()` before its imports, `program.run(main)`.

Standard streams that cannot be written (a closed terminal, `| head`, a full disk, closed from the start) are turned off
instead of ending the program; an interrupt ends it without a stack trace, during the imports too.
"""

import argparse
import errno
import functools
import gc
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from utils.missing_module import report_missing_modules
from utils.stop_signals import SIGNALS, exit_on_signals, ignore_signals, restore

FINISHED, STOPPED, REFUSED, INTERRUPTED, KILLED = 0, 1, 2, 75, 130
"""Exit statuses; arguments/exit_codes.py says what they mean."""
Main = Callable[[list[str]], int]
"""Takes the words of a command line, returns the exit status."""
CLOSED_BY_READER = (errno.EPIPE, errno.EIO)  # a closed pipe or terminal


class GuardedFile(io.FileIO):
    """A file descriptor that is written. After a failed write, kept in `error`, it writes to /dev/null."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes all of `data`, also where the descriptor does not block."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                count = super().write(view[done:])
                if count is None:
                    select.select([], [self], [])
                done += count or 0
        except OSError as error:
            self.error = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
        return len(view)


_before_start: dict[int, Any] = {}  # handlers that `run` restores


def start() -> None:
    """Before the imports, which may take seconds: from here until `run` SIGINT ends the program with one line.

    Streams are guarded, --version is answered, and a module that is not installed is one line. May be called twice.
    """
    guard_streams()
    _answer_version()
    report_missing_modules()
    before = exit_on_signals({signal.SIGINT: KILLED})
    _before_start.update({number: before[number] for number in before.keys() - _before_start.keys()})


def start_training() -> None:
    """As `start`, for train.py: every signal that stops a run, until StopSignals takes them. May be called twice."""
    guard_streams()
    _answer_version()
    report_missing_modules()
    statuses = {**dict.fromkeys(SIGNALS, INTERRUPTED), signal.SIGINT: KILLED}
    exit_on_signals(statuses, ", before the first step; run the same command again")


def _answer_version() -> None:
    """Prints version and revision, and ends the program, where its command line asks for them; no torch is imported."""
    if "--version" in split_at_dashes(sys.argv[1:])[0]:
        print_version()


def print_version() -> NoReturn:
    """Ends the program too."""
    from utils.revision import version_line  # here, for every other start would wait for git's module

    print(version_line())
    sys.exit(FINISHED if is_printed(sys.stdout) else STOPPED)


class Version(argparse.Action):
    """--version in a parser's help; `start` has answered it before, unless `main` was called with it from Python."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        about = "print the project's version and its code's revision, and stop"
        super().__init__(option_strings, argparse.SUPPRESS, 0, default=argparse.SUPPRESS, help=about)

    def __call__(self, *parsed: Any) -> NoReturn:
        print_version()


def guard_streams() -> None:
    """Replaces sys.stdout and sys.stderr by streams whose writes cannot fail. May be called twice."""
    for descriptor in (0, 1, 2):  # a closed one would be given to the next file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if _guard_of(stream) is None:
            setattr(sys, name, _guarded(stream, descriptor))


def _guarded(stream: Any, descriptor: int) -> io.TextIOWrapper:
    raw = GuardedFile(descriptor)
    write_through = stream is not None and stream.write_through  # python -u
    return io.TextIOWrapper(
        raw if write_through else io.BufferedWriter(raw),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",  # characters outside the terminal's encoding are escaped
        line_buffering=descriptor == 2 or raw.isatty(),
        write_through=write_through,
    )


def _guard_of(stream: Any) -> GuardedFile | None:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, GuardedFile) else None


def is_printed(stream: Any) -> bool:
    """Flushes a stream; False when something that it was given could not be written, reported once on stderr.

    A pipe that its reader closed is not a failure.
    """
    stream.flush()
    guard = _guard_of(stream)
    if guard is None or guard.error is None or guard.error.errno in CLOSED_BY_READER:
        return True
    print(f"{_name()}: the output could not be printed ({guard.error.strerror})", file=sys.stderr)
    guard.error = None
    return False


def command_of(name: str) -> str:
    """What messages of the command line `name`, such as train.py, begin with: cograd3d-train where that was typed."""
    console = f"cograd3d-{name.removesuffix('.py')}"
    return console if _name() == console else name


def refuses(name: str, *kinds: type[Exception]) -> Callable[[Main], Main]:
    """Decorates a command line's `main`: an exception of these kinds is the user's, printed as a line; status 2.

    Too little memory and a failed device are the machine's: a line too, status 1.
    """

    def decorated(main: Main) -> Main:
        @functools.wraps(main)
        def checked(argv: list[str]) -> int:
            try:
                return main(argv)
            except Exception as problem:
                if isinstance(problem, kinds) and getattr(problem, "errno", None) != errno.ENOMEM:
                    print(f"{command_of(name)}: {sentence_of(problem)}", file=sys.stderr)
                    return REFUSED
                from utils.failures import machine_failure  # here, for it imports torch

                if (failure := machine_failure(problem)) is None:
                    raise
                remedy = "end other programs, or request less" if failure.of_memory else "run it again"
                print(f"{command_of(name)}: {failure}; {remedy}.", file=sys.stderr)
                return STOPPED

        return checked

    return decorated


def sentence_of(problem: Exception) -> str:
    """What is printed of an exception: its message; what to do where a file is in the place of a folder."""
    if isinstance(problem, FileExistsError | NotADirectoryError) and problem.filename is not None:
        return f"{problem.filename}: a file is in the place of a folder; give another path."
    return str(problem)


def parser(description: str | None) -> argparse.ArgumentParser:
    """For a command line that `--help` describes by its module's docstring, printed as it stands; has --version.

    Where a console command was typed, such as cograd3d-export, the docstring's `python tools/export.py` is that.
    """
    command = _name()
    if description and command.startswith("cograd3d-"):
        tool = command.removeprefix("cograd3d-")
        description = re.sub(rf"python (-m tools\.{tool}|tools/{tool}\.py)(?!\w)", command, description)
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--version", action=Version)
    return made


def check_bounds(args: argparse.Namespace, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raises ValueError, one sentence, for a number that is out of its bounds, or not a number; None is left out.

    bounds: name of an attribute of `args` -> least and most. Of a list each is checked.
    """
    for name, (least, most) in bounds.items():
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not least <= value <= most:
                raise ValueError(f"--{name} {value}: expected a number from {least} to {most}.")


def given_flags(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, str]:
    """Attribute -> flag of what `words` give, whether it is the default or not; for `refuse_unread`."""
    absent = object()
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    found = parser.parse_args(words, argparse.Namespace(**dict.fromkeys(flags, absent)))
    return {dest: flag for dest, flag in flags.items() if getattr(found, dest, absent) is not absent}


def refuse_unread(given: Mapping[str, str], mode: str, unread: Collection[str]) -> None:
    """Raises ValueError, one sentence, where a flag of `given` is among those that the program does not read in a mode.

    mode: what chooses it, as the user writes it; unread: attributes.
    """
    for dest, flag in given.items():
        if dest in unread:
            raise ValueError(f"{flag} has no effect with {mode}; leave out one of them.")


def split_at_dashes(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words before a `--`, and those after it, which are for another program."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def run(main: Callable[[list[str]], int | None], prints_its_result: bool = True) -> NoReturn:
    """Calls main(the command line) and exits with its status. SIGINT raises KeyboardInterrupt in main, after `start`.

    prints_its_result: whether a finished program has failed when its output could not be printed.
    """
    guard_streams()
    gc.freeze()  # what was imported stays to the end: the collector need not visit it again and again
    try:
        restore(_before_start)
        status = main(sys.argv[1:]) or FINISHED
    except KeyboardInterrupt:
        print(f"{_name()}: interrupted", file=sys.stderr)
        status = KILLED
    ignore_signals()  # the status is decided
    if not is_printed(sys.stdout) and prints_its_result:
        status = status or STOPPED
    sys.exit(status)


def _name() -> str:
    return os.path.basename(sys.argv[0])
