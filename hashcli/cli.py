"""The `hashcli` command: its commands, and what becomes of every way a run can end.

Commands (`cli_commands`) parse, call one function and show the result; each imports what it needs when it runs, so
that `--help` and shell completion stay quick.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from hashcli import __version__, guard
from hashcli.cli_commands import Commands
from hashcli.errors import HashcliError

EPILOG = "The whole story: `hashcli adapt --src LABELED --tgt YOURS`, then `hashcli query PHOTO`."
GC_THRESHOLD = 20_000  # Python's own, 700, has importing modules alone search for garbage a hundred times
MACHINE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.EIO}

app = typer.Typer(
    name="hashcli",
    cls=Commands,
    help="Search your photos by example; the codes it searches by are learned from your own folders.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hashcli {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Search your photos by example; the codes it searches by are learned from your own folders."""
    from hashcli.config import apply_user_settings

    apply_user_settings(ctx)


class _Stopped(BaseException):
    """A signal asked the run to end. No Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: the process's own) and give its exit code."""
    gc.set_threshold(GC_THRESHOLD)
    atexit.register(gc.freeze)  # a process that ends need not look for garbage, which takes a tenth of a query
    _catch_signals()
    guard.install()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # no locale may end a run
    try:
        code = _exit_code(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _closed_pipe()
    except _Stopped as stop:
        code = _complain(128 + stop.number, "stopped; the library is as it was; the same command goes on from here")
    return code


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        app(args=arguments)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer ends a closed pipe with 1, our "nothing found"
            return _closed_pipe()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except HashcliError as error:
        hint = [f"hint: {error.hint}"] if error.hint else []
        return _complain(error.exit_code, f"error: {error}", *hint)
    except MemoryError:
        return _complain(5, "error: this machine ran out of memory", "hint: fewer --workers need less")
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        if error.errno == errno.ENAMETOOLONG:
            return _complain(2, f"error: {where}{error.strerror}", "hint: name a shorter path")
        if error.errno not in MACHINE_ERRNOS:
            return _bug()
        return _complain(5, f"error: {where}{error.strerror}", "hint: check the space and the permissions there")
    except Exception:  # whatever it is, the user gets one line and a file to send, not a traceback
        return _bug()
    return 0


def _complain(code: int, *lines: str) -> int:
    """Print each as one line, whatever bytes a file name brought into it."""
    for line in lines:
        harmless = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        print(harmless, file=sys.stderr, flush=True)
    return code


def _bug() -> int:
    import tempfile

    what = traceback.format_exc()
    reason = what.splitlines()[-1]
    if os.environ.get("HASHCLI_DEBUG") == "1":
        return _complain(70, *what.splitlines())
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="hashcli-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"hashcli {__version__}\n{sys.argv}\n\n{what}")
    except OSError:  # no room for a file: show it instead
        return _complain(70, *what.splitlines())
    return _complain(
        70,
        f"error: this is a bug in hashcli {__version__}, not your mistake: {reason}; "
        f"to report it, send the command and {file.name}",
    )


def _closed_pipe() -> int:
    """Whoever read our output has enough. Nothing more may be written, not even by the interpreter's last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 128 + signal.SIGPIPE


def _catch_signals() -> None:
    """Make SIGINT and SIGTERM end the run from within, so that it cleans up; one ignored by `nohup` stays so."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)  # a forked worker has nothing to clean up
        raise _Stopped(number)

    def again(lost: Any) -> None:
        if isinstance(lost.exc_value, _Stopped):
            threading.Timer(0.05, os.kill, (owner, lost.exc_value.number)).start()
        else:
            sys.__unraisablehook__(lost)

    # Raised while a weak reference's callback runs, as every import has them, the end would be printed and forgotten.
    sys.unraisablehook = again
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
