# SPDX-License-Identifier: Apache-2.0
"""The gallery, the repeatable choice of 80, a user's own list."""

import json

import pytest

from evaluation.prompts import GALLERY, MAX_BYTES, PAPER_COUNT, chosen, gallery, read_prompts

RECORDED = ["a capybara wearing a top hat, low poly", "a cat with a mullet", "a chimpanzee holding a peeled banana"]


def test_the_gallery_has_415_different_prompts_and_its_licence() -> None:
    assert len(set(gallery())) == len(gallery()) == 415 and "a DSLR photo of a dog made out of salad" in gallery()
    assert "Apache License" in (GALLERY.parent / "LICENSE.txt").read_text()


def test_the_choice_of_80_never_changes() -> None:
    kept = chosen(gallery(), PAPER_COUNT, 0)
    assert len(kept) == 80 and kept == sorted(kept, key=gallery().index)
    assert kept[:3] == RECORDED
    assert set(chosen(gallery(), 40, 0)) < set(kept) != set(chosen(gallery(), 80, 1))
    assert chosen(gallery(), 415, 3) == gallery()


@pytest.mark.parametrize("count", [0, 416])
def test_a_count_that_cannot_be_chosen_is_told(count) -> None:
    with pytest.raises(ValueError, match=rf"{count} prompts requested, 415 are there; request 1\.\.415"):
        chosen(gallery(), count, 0)


def test_a_users_own_list(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("# animals\na cat\n\n a dog \n", encoding="utf-8")
    assert read_prompts(tmp_path / "mine.txt") == ["a cat", "a dog"]
    (tmp_path / "mine.json").write_text(json.dumps(["a cat", "ein Käfer"]), encoding="utf-8")
    assert read_prompts(tmp_path / "mine.json") == ["a cat", "ein Käfer"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.txt", "", "no prompt is there"),
        ("a.txt", "x\ny\nx\n", "'x' is there twice"),
        ("a.json", "{}", "expected a JSON list of strings"),
        ("a.txt", "x" * (MAX_BYTES + 1), "cannot be read .*longer than 1048576 bytes"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.json", "[", "cannot be read .* expected a prompt a line, or a JSON list"),
    ],
)
def test_lists_that_cannot_be_used_are_told(tmp_path, name, text, told) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: {told}"):
        read_prompts(tmp_path / name)
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read"):
        read_prompts(tmp_path / "none.txt")
