# SPDX-License-Identifier: Apache-2.0
"""cfg_args: upstream's text, written and read back without evaluating it."""

import argparse
import dataclasses

import pytest

from arguments import Config
from arguments.cfg_args import MAX_BYTES, read_cfg_args, write_cfg_args


def test_what_is_written_is_upstreams_text_and_reads_back(tmp_path):
    config = Config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, workspace="it's \"x\"\n", sh_degree=2))
    path = tmp_path / "cfg_args"
    write_cfg_args(path, config)
    expected = dataclasses.asdict(config.model) | {"model_path": str(config.output_dir)}
    assert path.read_text() == str(argparse.Namespace(**expected))
    assert read_cfg_args(path) == expected


def test_upstreams_underscores_are_dropped(tmp_path):
    path = tmp_path / "cfg_args"
    path.write_text("Namespace(sh_degree=0, _white_background=True, _resolution=-1, opt_path=None, images='images')\n")
    expected = {"sh_degree": 0, "white_background": True, "resolution": -1, "opt_path": None, "images": "images"}
    assert read_cfg_args(path) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Namespace(a=__import__('os').getcwd())",
        "Namespace(a=open)",
        "Namespace(**{'a': 1})",
        "Namespace(1)",
        "dict(a=1)",
        "os.system('ls')",
        "Namespace(a=1); print(2)",
        "Namespace(a=1",
        "",
        "\0",
        "Namespace(a=" + "-" * 5000 + "1)",
        "Namespace(a=" + "(" * 5000 + ")",
    ],
)
def test_anything_else_is_refused_unevaluated(tmp_path, text):
    path = tmp_path / "cfg_args"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is not of the form Namespace\(key=value, \.\.\.\) with plain values"):
        read_cfg_args(path)


def test_missing_unreadable_and_huge_files_are_told(tmp_path):
    path = tmp_path / "cfg_args"
    with pytest.raises(ValueError, match=r"cannot be read \(No such file or directory\): expected a run's cfg_args"):
        read_cfg_args(path)
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="is longer than 1048576 bytes"):
        read_cfg_args(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not of the form Namespace"):
        read_cfg_args(path)
