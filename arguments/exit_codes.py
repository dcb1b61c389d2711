# SPDX-License-Identifier: Apache-2.0
"""What train.py's exit status means. `--help` and docs/running.md tell the same."""

FINISHED, STOPPED, REFUSED, INTERRUPTED, KILLED = 0, 1, 2, 75, 130

MEANING = {
    FINISHED: "the run came to its end",
    STOPPED: "it stopped, or an output is missing, for the reason printed last",
    REFUSED: "settings, files or folder were refused before any work",
    INTERRUPTED: "SIGINT, SIGTERM or SIGUSR1 ended it after a step; --resume auto goes on",
    KILLED: "a second SIGINT ended it at once; --resume auto goes on from the last checkpoint",
}
