# SPDX-License-Identifier: Apache-2.0
"""Untrusted files are read up to a limit: a path may name an endless device or a huge file."""

import os


def read_bytes(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The whole file. OSError when it cannot be read; ValueError, one sentence, when it is longer than max_bytes."""
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path} is longer than {max_bytes} bytes")
    return content


def read_text(path: str | os.PathLike[str], max_bytes: int) -> str:
    """As read_bytes, decoded, without a byte order mark; ValueError for what is not UTF-8 too."""
    return read_bytes(path, max_bytes).decode("utf-8-sig")
