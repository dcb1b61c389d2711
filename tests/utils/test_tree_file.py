# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from tests.trees import equal
from utils.tree_file import changed_by_saving, load_tree, save_tree


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


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (1, None), (2.5, None), (None, None), ("x", None), (True, None), ([[], {}], None), (torch.ones(2), None),
        ({"a": {"b": torch.zeros(2)}, "a/b": torch.ones(3)}, None),
        ({3: 1}, "m['k'] with the key 3"), ({"$tensor": "x"}, "m['k'] with the key '$tensor'"),
        ({"a": [0, (1, 2)]}, "m['k']['a'][1] = (1, 2)"), ({1, 2}, "m['k'] = {1, 2}"), (1j, "m['k'] = 1j"),
        (torch.nn.Parameter(torch.ones(1)), "m['k'] = Parameter containing:"), (print, "m['k'] = <built-in function print>"),
    ],
)  # fmt: skip
def test_what_a_file_would_change_is_found(tmp_path, value, part) -> None:
    """And nothing else is: the rest comes back equal."""
    found = changed_by_saving({"k": value}, "m")
    if part is not None:
        assert found is not None and found.startswith(part)
    else:
        save_tree(tmp_path / "t.safetensors", {"k": value})
        assert found is None and equal(load_tree(tmp_path / "t.safetensors"), {"k": value})


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


def _saved(path, **metadata) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    save_tree(path, {"a": torch.arange(100.0), "b": 1})
    with safe_open(str(path), "pt") as file:
        save_file({"/a": file.get_tensor("/a")}, str(path), {**file.metadata(), **metadata})


@pytest.mark.parametrize("place", [-1, -200])
def test_one_flipped_bit_is_noticed(tmp_path, place) -> None:
    path = tmp_path / "t.safetensors"
    _saved(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its checksum does not fit"):
        load_tree(path)


def test_a_changed_word_of_the_json_is_noticed(tmp_path) -> None:
    _saved(tmp_path / "t.safetensors", tree='{"a": {"$tensor": "/a"}, "b": 2}')
    with pytest.raises(ValueError, match="its checksum does not fit"):
        load_tree(tmp_path / "t.safetensors")


def test_another_schema_is_told(tmp_path) -> None:
    _saved(tmp_path / "t.safetensors", schema="1")
    with pytest.raises(ValueError, match="its schema is '1', this program reads '2'"):
        load_tree(tmp_path / "t.safetensors")


def test_types_of_all_sizes_are_summed(tmp_path) -> None:
    tree = {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "bool": torch.tensor([True]),
        "none": torch.zeros(0, dtype=torch.int64),
    }
    save_tree(tmp_path / "t.safetensors", tree)
    back = load_tree(tmp_path / "t.safetensors")
    assert all(torch.equal(back[name], x) and back[name].dtype == x.dtype for name, x in tree.items())


def test_a_tensor_is_copied_to_main_memory_and_not_on_its_device(tmp_path) -> None:
    """On a GPU a clone, or what `contiguous` makes of a transposed tensor, would need that memory there."""
    calls: list[str] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if args and isinstance(args[0], torch.Tensor) and args[0].data_ptr() in sources:
                calls.append(func.__name__)
            return result

    tree = {"leaf": torch.arange(6.0, requires_grad=True), "turned": torch.ones(3, 4).t(), "row": torch.ones(3, 4)[1]}
    sources = {x.data_ptr() for x in tree.values()}
    with Watch():
        save_tree(tmp_path / "t.safetensors", tree)
    assert {name for name in calls if not name.startswith("__")} <= {"detach", "to", "data_ptr", "requires_grad"}, calls
    assert calls.count("to") == 3 and equal(load_tree(tmp_path / "t.safetensors"), tree)


def test_tensors_begin_where_torch_would_put_them_whatever_their_place_in_the_file(tmp_path) -> None:
    """torch.dot of numbers that begin elsewhere has other last digits, and a resumed run would leave the unbroken one."""
    save_tree(tmp_path / "t.safetensors", {name: torch.zeros(k) for k, name in enumerate("abcdefg", start=1)})
    read = load_tree(tmp_path / "t.safetensors")
    assert {x.data_ptr() % 64 for x in read.values()} == {torch.empty(3).data_ptr() % 64} == {0}
