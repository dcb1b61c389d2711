# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from tests.trees import equal
from utils.tree_file import load_tree, save_tree, tree_from_bytes, tree_to_bytes


def test_tree_comes_back_exactly(tmp_path) -> None:
    tree = {
        "a": {"b": torch.arange(6).reshape(2, 3).t(), "words": [1, 2.5, None, "x"]},
        "list": [torch.tensor(1.5), {"c": torch.zeros(0, 3)}],
        "big": 2**63 + 1,
    }
    save_tree(tmp_path / "t.safetensors", tree)
    back = load_tree(tmp_path / "t.safetensors")
    assert torch.equal(back["a"]["b"], tree["a"]["b"]) and back["a"]["words"] == [1, 2.5, None, "x"]
    assert back["list"][0].shape == () and back["list"][1]["c"].shape == (0, 3) and back["big"] == 2**63 + 1


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "stranger"])
def test_a_bad_file_is_told(tmp_path, damage) -> None:
    path = tmp_path / "t.safetensors"
    save_tree(path, {"a": torch.zeros(100)})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "garbage":
        path.write_bytes(b"\0" * 200)
    elif damage == "missing":
        path.unlink()
    else:
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, str(path))
    with pytest.raises(ValueError, match=r"t\.safetensors is not"):
        load_tree(path)


def test_a_tree_travels_as_bytes() -> None:
    tree = {"a": torch.arange(6).view(2, 3), "b": [1, None, {"c": torch.zeros(0)}], "d": "x"}
    assert equal(tree_from_bytes(tree_to_bytes(tree)), tree)
    assert tree_from_bytes(tree_to_bytes("go")) == "go"
