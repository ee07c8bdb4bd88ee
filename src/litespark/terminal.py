"""What a command writes to: a terminal of any encoding, or a pipe whose reader may leave early."""

import io
import logging
import os
import sys


def decide_streams() -> None:
    """Have stdout and stderr replace characters that they cannot write, and logging not complain of itself."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.raiseExceptions = False


def flush() -> bool:
    """Write out what is held for stdout; False where its reader has left, as `head` does, and nothing more is held."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # or Python would complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
