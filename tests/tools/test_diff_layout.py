# SPDX-License-Identifier: Apache-2.0
"""tools/diff_layout.py on a tree that is made from the map's own names: states, new files, and what is told when it is wrong."""

import pytest

from tools import diff_layout
from tools.diff_layout import MAP, ROOT, defined, lines, read_map, sources

ROWS = read_map(MAP.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A checkout with every file and name that docs/upstream.md says upstream has, and nothing else."""
    root = tmp_path_factory.mktemp("LucidDreamer")
    contents: dict[str, list[str]] = {}
    for row in ROWS:
        for file, names in row.files.items():
            contents.setdefault({"arguments": "arguments/__init__.py"}.get(file, file), []).extend(names)
    for file, names in contents.items():
        path = root / file.replace("*", "cat")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == "":
            path.mkdir(exist_ok=True)
        elif path.suffix == ".py":
            path.write_text("import torch_that_is_not_here\n" + "\n".join(f"def {name}(): pass" for name in names))
        else:
            path.write_text("")
    return root


def test_the_map_is_read() -> None:
    by_file = {file: names for row in ROWS for file, names in row.files.items()}
    assert len(ROWS) > 20 and "RCamera" in by_file["scene/cameras.py"] and "get_combined_args" in by_file["arguments"]
    with pytest.raises(ValueError, match='has no section "Files and names"'):
        read_map("# something else")


def test_a_tree_that_is_as_the_map_says_is_accepted(tree, capsys) -> None:
    assert diff_layout.main([str(tree)]) == 0
    told = capsys.readouterr().out
    assert "| utils/sh_utils.py | eval_sh | kept | utils/sh_utils.py |" in told
    assert (
        "| guidance/sd_utils.py | seed_everything | mapped | " in told
        and "| utils/pointe_utils.py | (the file) | mapped | " in told
    )
    assert "| scene/cameras.py | MiniCam | moved | gaussian_renderer/network_gui.py |" in told
    assert "not mapped" not in told
    new = told.split("New here: ")[1].split("\n")[0]
    assert "cograd/training_step.py" in new and "scene/cameras.py" not in new and "tests/" not in new


def test_what_the_map_is_silent_about_is_told(tree, tmp_path) -> None:
    (tmp_path / "odd.py").write_text("class Odd:\n    def method(self): ...\n")
    (tmp_path / "train.py").write_text("def another(): ...\ndef training(): ...\nTEXT = (")  # does not parse
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "cameras.py").write_text("class RCamera: ...\nclass Camera: ...\n")
    found = {(line.file, line.name): line.state for line in lines(ROWS, sources(tmp_path), sources(ROOT))}
    assert found[("odd.py", "")] == found[("odd.py", "Odd")] == "not mapped" and ("odd.py", "method") not in found
    assert found[("scene/cameras.py", "RCamera")] == "kept" and found[("scene/cameras.py", "Camera")] == "not mapped"
    assert found[("train.py", "")] == "kept" and defined(tmp_path / "train.py") == {}


def test_a_map_that_names_what_is_not_there_fails(tree, tmp_path, capsys, monkeypatch) -> None:
    text = (
        MAP.read_text(encoding="utf-8")
        .replace("`eval_sh`", "`eval_harmonics`")
        .replace("| `scene/cameras.py`:", "| `scene/kameras.py`:")
        .replace("`arguments/cfg_args.py`", "`arguments/gone.py`")
        .replace("`CameraStack`", "`CameraHeap`")
    )
    (tmp_path / "upstream.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(diff_layout, "MAP", tmp_path / "upstream.md")
    assert diff_layout.main([str(tree)]) == 1
    told = capsys.readouterr().err
    assert "utils/sh_utils.py of" in told and "defines no eval_harmonics" in told
    assert (
        "scene/kameras.py is not in" in told
        and "arguments/gone.py is not here" in told
        and "CameraHeap is not in our sources" in told
    )


def test_a_folder_that_is_no_checkout_is_told(tmp_path, capsys) -> None:
    assert diff_layout.main([str(tmp_path)]) == 2
    assert "holds no train.py; give a checkout of LucidDreamer" in capsys.readouterr().err
