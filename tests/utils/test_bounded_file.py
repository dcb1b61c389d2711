# SPDX-License-Identifier: Apache-2.0
"""A file is read whole up to the limit, refused beyond it, and a device without end costs no more than the limit."""

import re

import pytest

from arguments.cfg_args import read_cfg_args
from arguments.yaml_file import read_yaml
from evaluation.ablation.staircase import read_biases
from evaluation.prompts import read_prompts
from guidance.model_checks import read_json, read_words
from utils.bounded_file import read_bytes, read_text


def test_up_to_the_limit_and_not_beyond(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("käse", encoding="utf-8")
    assert read_text(path, 5) == "käse" and read_bytes(path, 5) == path.read_bytes()
    with pytest.raises(ValueError, match=r"a\.txt is longer than 4 bytes"):
        read_bytes(path, 4)


def test_a_device_without_end_is_refused():
    with pytest.raises(ValueError, match=r"/dev/zero is longer than 1000 bytes"):
        read_bytes("/dev/zero", 1000)


@pytest.mark.parametrize("read", [read_cfg_args, read_yaml, read_prompts, read_json, read_words])
def test_what_a_user_or_a_stranger_wrote_is_read_up_to_a_limit(read, tmp_path):
    """By everything that reads text; a link without end is not read on."""
    (tmp_path / "link").symlink_to("/dev/zero")
    try:
        told = str(read(tmp_path / "link"))
    except ValueError as refused:
        told = str(refused)
    assert re.search(r"link\S* .*is longer than \d+ bytes", told)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "b", 10)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    """As editors of Windows write it; the first prompt of a list had it."""
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa red cube\na cat\n")
    (tmp_path / "prompts.json").write_bytes(b'\xef\xbb\xbf["a red cube", "a cat"]')
    (tmp_path / "bias.json").write_bytes(b'\xef\xbb\xbf{"a cat": {"bias": 0.5}}')
    for name in ("prompts.txt", "prompts.json"):
        assert read_prompts(tmp_path / name) == ["a red cube", "a cat"]
    assert read_biases(tmp_path / "bias.json", ["a cat"]) == {"a cat": 0.5}
