"""cli: the command line. Each command stands in a file of its name: parse, one library call, a table or JSON.

Nothing here imports torch before it has work to do, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from assay.errors import AssayError

FAILED, USAGE, CRASHED, INTERRUPTED, PIPE = 1, 2, 70, 130, 141
"""Exit codes: the user's to mend · not understood · ours to mend (EX_SOFTWARE) · Ctrl-C or SIGTERM · nobody reads our output."""
RESUMES = ("demo", "gather", "train", "eval", "harvest")
"""Commands that keep what is done, and go on from it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code. The only place that turns errors into messages."""
    words = [*(sys.argv[1:] if argv is None else argv)]  # `list` and `eval` are modules of this package
    debug = "--debug" in words
    try:
        with _terminable():
            code = _run(words)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        resumes = bool(words) and words[0] in RESUMES
        _complain("interrupted; run the same command again to resume" if resumes else "interrupted", debug)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has gone (`assay … | head`); the interpreter's own flush at exit must not stumble over it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    except AssayError as error:
        _complain(f"error: {error}", debug)
        return FAILED
    except Exception as error:
        if mendable := _outside(error):
            _complain(f"error: {mendable}", debug)
            return FAILED
        _complain(
            f"error: {type(error).__name__}: {error}\n"
            "This is a fault in Assay, not in what you asked for. Please report it, with the traceback that the same command "
            "gives with --debug.",
            debug,
        )
        return CRASHED


def _run(words: list[str]) -> int:
    from cyclopts import CycloptsError

    from assay.cli.app import build
    from assay.cli.toml import replay

    app = build(words)
    replay(app, words)
    try:
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        if isinstance(cause := error.__cause__ or error.__context__, AssayError):
            raise cause from None
        _complain(f"error: {error}\nSee: {' '.join(['assay', *(error.command_chain or ())])} --help", False)
        return USAGE
    return 0


def _outside(error: Exception) -> str | None:
    """What to do about an error that lies outside Assay: memory, or where the output goes."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return f"There is not enough memory ({str(error).splitlines()[0]}). Use a smaller --d-sae, --batch or --context."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "The disk is full. Free some space and run the same command again; finished parts are kept."
    return None


def _complain(message: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    print(message, file=sys.stderr, flush=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """Within, SIGTERM does what Ctrl-C does: unfinished work is left so that it can be resumed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever runs us minds the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
