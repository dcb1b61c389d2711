# SPDX-License-Identifier: Apache-2.0
"""What train.py's exit status means. `--help` and docs/running.md tell the same."""

from utils.program import FINISHED, INTERRUPTED, KILLED, REFUSED, STOPPED

__all__ = ["FINISHED", "INTERRUPTED", "KILLED", "MEANING", "REFUSED", "STOPPED"]

MEANING = {
    FINISHED: "the run reached its last step and wrote everything",
    STOPPED: "it stopped, skipped too many steps, or an output is missing, for the reason printed last",
    REFUSED: "settings, files or folder were refused before any work",
    INTERRUPTED: "a signal such as SIGTERM stopped it after a step or during start-up; --resume auto continues",
    KILLED: "SIGINT during start-up, or a second SIGINT, ended it at once; --resume auto continues",
}
