# SPDX-License-Identifier: Apache-2.0
"""How a documented command is tried in this process: word for word in a copy of the checkout, made small or only understood."""

import argparse
import contextlib
import importlib
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import train
from tests.documented.commands import ROOT, Command

SMALL = [
    "--set",
    "iterations=2",
    "image_w=16",
    "image_h=16",
    "view_px=16",
    "init_num_pts=40",
    "pro_frames_num=2",
    "test_ratio=1",
    "save_ratio=1",
    "quiet=true",
    "vis_interval=9",
    "device=cpu",
    "save_video=false",
]
"""By --set, which wins over every other way to say the same."""


class Understood(Exception):
    """The program has read its command line and would begin."""


class Checkout:
    """A folder in which every file of the checkout is to be found, but outputs are written for the test alone."""

    capsys: pytest.CaptureFixture[str] | None = None

    def __init__(self, folder: Path) -> None:
        self.folder, self.tried = folder, set[tuple[str, ...]]()
        for path in ROOT.iterdir():
            if path.name == "docs":  # commands may write there
                shutil.copytree(path, folder / path.name)
            elif path.name not in ("output", ".git", "build"):
                (folder / path.name).symlink_to(path)
        self.run = folder / "output" / "tiny"  # a name that no document has
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            quick = ["--opt", "configs/quickstart.yaml", "--workspace", "tiny"]
            assert train.main([*quick, *SMALL, "save_video=true", "checkpoint_every=1", "keep_last_checkpoint=true"]) == 0

    def printed(self) -> str:
        """What was printed since the last call, errors last."""
        assert self.capsys is not None, "set for each test"
        return "".join(self.capsys.readouterr())

    def expect(self, pattern: str) -> None:
        """Fails unless what was printed matches."""
        printed = self.printed()
        assert re.search(pattern, printed), printed

    def words(self, command: Command) -> list[str]:
        """The command's words with a value for each placeholder. Runs that are named but not there are made."""
        filled = [self._value(word, before) for before, word in zip(("", *command.words), command.words)]
        for word in filled:
            run = re.match(r"output/[\w-]+", word)
            if run and command.words[1] != "train.py" and not (self.folder / run[0]).exists():
                shutil.copytree(self.run, self.folder / run[0])
        return filled

    def _value(self, word: str, before: str) -> str:
        """What stands for a placeholder; other words as they are. An unknown placeholder is an error."""
        run = self.run.relative_to(self.folder).as_posix()
        clean = word.strip("[]").removesuffix("...") or word
        after_flag = {"--text": "a red mug", "--opt": "configs/toy.yaml", "--prompts": "prompts.txt"}
        if word in ("...", "FILE", "PROMPT") and before in after_flag:
            return after_flag[before]
        if clean in ("RUN", "SCENE", "SOURCE", "A", "B", "C", "OURS", "THEIRS"):
            return run
        if clean in ("OUT", "FOLDER"):
            return f"out/{len(list(self.folder.glob('out/*')))}"
        values = {
            "K": "2", "P": "256", "FILE": "labels.json", "CHECKOUT": "upstream", "UPSTREAM_CHECKOUT": "upstream",
            "VIDEO": str(next(self.run.glob("videos/*/video_rgb_*.mp4"))), "FOLDER_WITH_NVRTC": "nvrtc", "OUTPUT_FOLDER": "sm70",
            "$SLURM_ARRAY_TASK_ID/8": "1/8", "--nproc_per_node=K": "--nproc_per_node=2",
        }  # fmt: skip
        if clean in values:
            return values[clean]
        assert not re.fullmatch(r"[A-Z][A-Z_]+|.*\.\.\.|.*\$.*|<.*>", word), f"no value for the placeholder {word}"
        return word


def program(words: list[str]) -> tuple[Callable[..., object], list[str]]:
    """(main of the program, the words after it) of `python FILE ...` or `python -m MODULE ...`."""
    name, rest = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    assert words[1] == "-m" or (ROOT / name).is_file(), f"{name} is not there"
    module = name.removesuffix(".py").replace("/", ".")
    if (ROOT / module.replace(".", "/") / "__main__.py").is_file():
        module += ".__main__"
    return importlib.import_module(module).main, rest


@contextlib.contextmanager
def only_read() -> Iterator[None]:
    """Inside, a program that has read its command line raises Understood."""
    read = argparse.ArgumentParser.parse_known_args

    def known(parser, args=None, namespace=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_known_args", read)  # subparsers come back to it
            _, strangers = read(parser, args, namespace)
        raise Understood(strangers)

    def all_of(parser, args=None, namespace=None):
        try:
            known(parser, args, namespace)
        except Understood as understood:
            if understood.args[0]:
                parser.error(f"unrecognized arguments: {' '.join(understood.args[0])}")
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", known)
        patch.setattr(argparse.ArgumentParser, "parse_args", all_of)
        yield
