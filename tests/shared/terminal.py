"""A command in a terminal of its own."""

import os
import pty
import subprocess


def in_terminal(command, columns=100, **how):
    """What a command prints into a terminal of so many columns, and its status."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment, **how)
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux' end of a terminal
            break
        if not piece:
            break
        text += piece
    os.close(ours)
    return text.decode(), process.wait()
