# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: damaged ones, and whole ones that hold something else."""

import json
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from tests.fuzzing.engine import CORPUS, LawBroken, Target
from tests.fuzzing.mutations import damaged
from utils import tree_file
from utils.tree_file import MARK, SCHEMA, load_tree, save_tree

PATH = Path(tempfile.mkdtemp(prefix="fuzz-")) / "chkpnt1.safetensors"
TREE = {"iteration": 1, "gaussians": {"xyz": torch.zeros(3, 3), "list": [1.5, None, "x", torch.ones(2)]}}
TOKENS = [b"__metadata__", b'"tree"', b'"schema"', b"data_offsets", b"[0,36]", b"F32", b"BOOL", b"I64", b"shape", MARK.encode(), b'\\"', b"{", b"}", b"["]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([MARK, "a", "iteration"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
TEXTS = JSON.map(json.dumps) | st.text(max_size=20) | st.sampled_from(["[" * 100_000, '{"a":' * 50_000, "1" * 5000])
METADATA = st.dictionaries(
    st.sampled_from(["tree", "schema"]) | st.text(max_size=3), st.just(SCHEMA) | TEXTS, max_size=3
)


def _saved() -> bytes:
    save_tree(PATH, TREE)
    return PATH.read_bytes()


def _whole(metadata: dict[str, str]) -> bytes:
    tensors = {"/gaussians/xyz": torch.zeros(3)}
    checksum = tree_file._checksum(metadata.get("tree", ""), tensors)
    return save(tensors, {"schema": SCHEMA, "checksum": checksum, **metadata})


def law(content: bytes) -> bool:
    """A dictionary, or a ValueError of one sentence that names the file."""
    PATH.write_bytes(content)
    try:
        tree = load_tree(PATH)
    except ValueError as error:
        if str(PATH) not in str(error) or len(str(error)) > 2000:
            raise LawBroken(f"no sentence: {str(error)[:200]!r}") from error
        return False
    if not isinstance(tree, dict):
        raise LawBroken(f"a {type(tree).__name__} was accepted")
    return True


def _read(path: Path) -> bytes:
    """*.json is the metadata of a file that is whole, *.safetensors a file."""
    return _whole(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()


SEEDS = [_saved(), *[_read(path) for path in sorted((CORPUS / "checkpoint").iterdir())]]
CHECKPOINT = Target("checkpoint", damaged(SEEDS, TOKENS) | METADATA.map(_whole), law, _read)
