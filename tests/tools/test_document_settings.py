# SPDX-License-Identifier: Apache-2.0
"""docs/configuration.md is what arguments/ declares: every key with default and bounds, and no page is left stale."""

import pytest

from arguments import GROUPS, Config
from arguments.declare import keys_of
from tools import document_settings as tool

PAGE = tool.PAGE.read_text(encoding="utf-8")


def test_the_page_is_fresh() -> None:
    assert tool.main(["--check"]) == 0, "run python tools/document_settings.py"


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_every_key_has_a_row_or_is_named_as_unread(group) -> None:
    section = PAGE.split(f"\n### {group or 'Top level'}\n", 1)[1].split("\n### ", 1)[0]
    table, _, unread = section.partition("Taken from LucidDreamer's files")
    declared = keys_of(GROUPS[group][1] if group else Config)
    for name, (_, spec, _) in declared.items():
        assert (f"\n| `{name}`" in table) != spec.unread and (f"`{name}`" in unread) == spec.unread, name
    assert table.count("\n| `") == sum(not spec.unread for _, spec, _ in declared.values())


def test_a_row_tells_default_unit_bounds_and_whose_key_it_is() -> None:
    assert "| `iterations` | `5000` | a whole number >= 1 and <= 10000000 (iterations) | training iterations |" in PAGE
    assert "| `max_points` *new* |" in PAGE
    assert "folder; empty: output/&lt;workspace> |" in PAGE  # GitHub would take <workspace> for HTML
    assert "| `tau` | `0.1` | a number >= 1e-06 and <= 1e+09 |" in PAGE  # all of CoGradParams is new, so no mark


def test_a_stale_page_is_told_and_mended(tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "configuration.md"
    page.write_text(PAGE.replace("| `5000` |", "| `4000` |"), encoding="utf-8")
    monkeypatch.setattr(tool, "PAGE", page)
    assert tool.main(["--check"]) == 1
    assert "docs/configuration.md is stale; run python tools/document_settings.py" in capsys.readouterr().err
    assert tool.main([]) == 0 and page.read_text(encoding="utf-8") == PAGE


def test_a_page_without_marks_is_told(tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "configuration.md"
    page.write_text("# Settings\n", encoding="utf-8")
    monkeypatch.setattr(tool, "PAGE", page)
    assert tool.main([]) == 2
    assert "expected the marks" in capsys.readouterr().err and page.read_text(encoding="utf-8") == "# Settings\n"


def test_every_file_of_configs_is_told_with_what_it_is_based_on() -> None:
    table = PAGE.split("## Files in configs/", 1)[1].split("## All keys", 1)[0]
    names = sorted(path.name for path in (tool.ROOT / "configs").glob("*.yaml"))
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == names
    assert "| `wo_fusion.yaml` | `prompt.yaml` | Ablation" in table
