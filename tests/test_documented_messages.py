# SPDX-License-Identifier: Apache-2.0
"""Every message that a document shows in a block of the language `text` is what the program prints when it is provoked."""

import re

import pytest

from tests.documented.commands import PAGES, ROOT, fences
from tests.documented.messages import PROVOKED, Scene

NUMBER = r"\d+(?:\.\d+)?"
MESSAGES = [
    (page.relative_to(ROOT).as_posix(), line)
    for page in PAGES
    for language, text in fences(page)
    if language == "text"
    for line in text.splitlines()
]


def pattern(message: str) -> str:
    """What matches the message: `...` stands for any words, a number for any number, cuda:N for any device."""
    fixed = re.split(rf"(\.\.\.|cuda:\d+|{NUMBER})", message)
    filled = [".*" if part == "..." else r"\w+(?::\d+)?" if part.startswith("cuda") else NUMBER for part in fixed[1::2]]
    return "".join(re.escape(part) + free for part, free in zip(fixed[::2], [*filled, ""]))


def provoker(message: str):
    """What provokes a message: that of the one key which the message contains."""
    keys = [key for key in PROVOKED if key in message]
    assert len(keys) == 1, f"{message!r} contains {len(keys)} of the keys of PROVOKED: {keys}"
    return PROVOKED[keys[0]]


@pytest.mark.parametrize(("page", "message"), MESSAGES, ids=lambda text: text[:60])
def test_a_message_that_is_shown_is_printed(page, message, tmp_path, monkeypatch, capfd, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    provoker(message)(Scene(tmp_path, monkeypatch))
    printed = [line for text in capfd.readouterr() for line in text.splitlines()]
    printed += [record.getMessage() for record in caplog.records]
    assert any(re.search(pattern(message), line) for line in printed), "\n".join(printed)


@pytest.mark.parametrize("key", PROVOKED)
def test_what_is_provoked_is_shown(key) -> None:
    assert any(key in message for _, message in MESSAGES)


@pytest.mark.parametrize(
    ("message", "printed", "fits"),
    [
        ("step ... skipped: ...", "step 3 skipped: it was", True),
        ("needs 12.8 GB of cuda:0", "needs 3 GB of cpu", True),
        ("needs 12.8 GB of cuda:0", "needs much of cpu", False),
        ("train.py: device ... given", "device 'x' given", False),
    ],
)
def test_a_pattern_fits_what_it_shows_only(message, printed, fits) -> None:
    assert bool(re.match(pattern(message), printed)) == fits
