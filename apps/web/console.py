# SPDX-License-Identifier: Apache-2.0
"""What a process has printed, for people: its own message, else its last line."""

TAIL_BYTES = 16_384
"""Of what was printed, that are read."""


def last_sentence(printed: str, program: str) -> str:
    """The last message of a command line, which begins with its name, else the last line; "" where there is none."""
    text = printed.replace("\r", "\n")
    _, found, message = f"\n{text}".rpartition(f"\n{program}: ")
    if found:
        return message.strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
