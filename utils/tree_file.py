# SPDX-License-Identifier: Apache-2.0
"""One nested dictionary of tensors and plain values in one safetensors file: JSON for the shape of it, no pickle.

The file's metadata holds the schema version, the JSON and a checksum over both it and the tensors' bytes.
"""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from utils.general_utils import atomic_path

SCHEMA = "2"
MARK = "$tensor"
HEADER = b'{"__metadata__"'
"""How the header of a safetensors file with metadata begins."""


def save_tree(path: Path, tree: dict[str, Any], guard: Callable[[], None] = lambda: None) -> None:
    """Writes dicts (string keys), lists, tuples (as lists), numbers, strings, None and tensors; atomically.

    guard: called when all is ready to be written, which may take seconds to come to. Raises what it raises, and OSError
    when the file cannot be written; what was at `path` before is then still there.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_detach(tree, "", tensors))
    metadata = {"schema": SCHEMA, "tree": text, "checksum": _checksum(text, tensors)}
    guard()
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata=metadata)
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from error


def changed_by_saving(node: Any, name: str) -> str | None:
    """`name[key] = ...`: the first part of a tree that save_tree refuses, or load_tree returns as something else."""
    if isinstance(node, dict):
        wrong = [key for key in node if not isinstance(key, str) or key == MARK]
        if wrong:
            return f"{name} with the key {wrong[0]!r}"
        parts = [(f"{name}[{key!r}]", value) for key, value in node.items()]
    elif isinstance(node, list):
        parts = [(f"{name}[{k}]", value) for k, value in enumerate(node)]
    else:
        is_kept = isinstance(node, bool | int | float | str | None) or type(node) is torch.Tensor
        return None if is_kept else f"{name} = {node!r:.80}"
    return next((found for part, value in parts if (found := changed_by_saving(value, part))), None)


def unfinished_trees(folder: Path) -> list[Path]:
    """Files in which safetensors was writing a tree to be, in this folder, when its process was killed.

    It writes into a file of its own beside the one that it is given, and renames that.
    """
    found = []
    for path in folder.glob(".tmp*"):
        if re.fullmatch(r"\.tmp[A-Za-z0-9]{6}", path.name) and path.is_file() and not path.is_symlink():
            with suppress(OSError), path.open("rb") as file:  # one that cannot be read is not of a run of this user
                start = file.read(len(HEADER) + 8)  # of which 8 are the header's length
                if not start or start[8:] == HEADER:
                    found.append(path)
    return found


def load_tree(path: Path) -> dict[str, Any]:
    """What save_tree wrote, with its tensors on the CPU.

    They are copies, which begin where torch's own tensors would: the last digits of a dot product depend on that, and
    nothing of the file is needed any more. ValueError for a file that is missing, damaged, of another kind or version.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} is not there; expected a checkpoint file such as chkpnt1000.safetensors")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {metadata.get('schema')!r}, this program reads {SCHEMA!r}")
        if metadata.get("checksum") != _checksum(metadata["tree"], tensors):
            raise ValueError("its checksum does not fit")
        tree = _attach(json.loads(metadata["tree"]), tensors)
        if not isinstance(tree, dict):
            raise ValueError("it holds something else")
        return tree
    except (SafetensorError, ValueError, KeyError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a whole checkpoint of this program ({reason}); use an earlier one") from error


def moved(tree: Any, device: str | torch.device) -> Any:
    """A tree of dictionaries, lists and values with its tensors on `device`."""
    if isinstance(tree, torch.Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: moved(value, device) for key, value in tree.items()}
    return [moved(value, device) for value in tree] if isinstance(tree, list) else tree


def _checksum(text: str, tensors: dict[str, torch.Tensor]) -> str:
    """BLAKE2b over the JSON, then each tensor's name and bytes, in the order of the names."""
    total = hashlib.blake2b(text.encode("utf-8"), digest_size=16)
    for name, x in sorted(tensors.items()):
        total.update(name.encode("utf-8"))
        total.update(x.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _detach(node: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, torch.Tensor):
        while name in tensors:  # of {"a": {"b": x}, "a/b": x}
            name += "/"
        # Straight to main memory, one tensor at a time: a clone on the GPU would need the whole state twice there.
        tensors[name] = node.detach().to("cpu", copy=True).contiguous()
        return {MARK: name}
    if isinstance(node, dict):
        return {key: _detach(value, f"{name}/{key}", tensors) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_detach(value, f"{name}/{ind}", tensors) for ind, value in enumerate(node)]
    return node


def _attach(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, dict) and MARK in node:
        return tensors[str(node[MARK])]
    if isinstance(node, dict):
        return {key: _attach(value, tensors) for key, value in node.items()}
    return [_attach(value, tensors) for value in node] if isinstance(node, list) else node
