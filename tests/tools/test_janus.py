# SPDX-License-Identifier: Apache-2.0
"""tools/janus.py: a sheet that hides the methods, its labels and rates, and what a browser keeps of them."""

import json
import re

from evaluation.janus import Rate
from evaluation.janus_sheet import read_rates, write_sheet
from evaluation.run_images import draw
from tests.browser import browser_page, needs_browser
from tests.one_file_page import Tags
from tests.red_ball import write_run
from tests.reproduced import SMALL, reproduced
from tools import janus


def test_the_sheet_hides_the_methods_and_gives_rates(tmp_path, pretended, capsys) -> None:
    reproduced(tmp_path, *SMALL)
    text = (tmp_path / "janus" / "sheet.html").read_text()
    tags = Tags(text)
    assert tags.open == [] and tags.names.count("video") == 4
    assert not re.search("luciddreamer|full|seed", re.sub(r"base64,[\w+/=]+", "", text), re.IGNORECASE)
    key = json.loads((tmp_path / "janus" / "key.json").read_text())
    given = {number: "janus" if name.startswith("full") else "consistent" for number, name in key["key"].items()}
    (tmp_path / "janus" / "labels.json").write_text(json.dumps({"sheet": key["sheet"], "labels": given}))
    reproduced(tmp_path, *SMALL, "--report_only")
    row = json.loads((tmp_path / "results.json").read_text())["rows"][1]
    assert row["janus"] == 1.0 and row["janus_interval"] == list(Rate(2, 2, 0).interval)
    assert "1.0000 (2 of 2)" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    assert janus.main(["rate", str(tmp_path / "janus")]) == 0
    assert "full: 1.0000 (2 of 2, 0 unsure), 95 % interval 0.342 .. 1.000" in capsys.readouterr().out


def test_labels_of_another_sheet_aretold(tmp_path, pretended, capsys) -> None:
    reproduced(tmp_path, *SMALL)
    (tmp_path / "janus" / "labels.json").write_text('{"sheet": "other", "labels": {}}')
    assert janus.main(["rate", str(tmp_path / "janus")]) == 2
    assert "belongs to another sheet" in capsys.readouterr().err
    (tmp_path / "janus" / "labels.json").write_text("junk")
    assert janus.main(["rate", str(tmp_path / "janus")]) == 2
    assert "labels.json cannot be read" in capsys.readouterr().err


def test_a_sheet_of_any_runs(tmp_path, capsys) -> None:
    folders = [write_run(tmp_path / name, (5,)) for name in ("mine-a", "theirs-a")]
    assert janus.main(["sheet", str(tmp_path / "sheet"), *map(str, folders), "--view_px", "16"]) == 0
    assert sorted(json.loads((tmp_path / "sheet" / "key.json").read_text())["key"].values()) == ["mine-a", "theirs-a"]
    assert "sheet.html in a browser" in capsys.readouterr().out
    assert janus.main(["sheet", str(tmp_path / "sheet"), str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err


def _labelled(folder, label_of) -> None:
    """labels.json as the sheet of a folder saves it, of the assets that are in its key."""
    key = json.loads((folder / "key.json").read_text())
    labels = {number: label_of(name) for number, name in key["key"].items()}
    (folder / "labels.json").write_text(json.dumps({"sheet": key["sheet"], "labels": labels}))


def test_labels_stay_valid_when_more_or_fewer_assets_are_shown(tmp_path, pretended, capsys) -> None:
    pretended.failing.add("full")
    reproduced(tmp_path, *SMALL, status=1)
    _labelled(tmp_path / "janus", lambda name: "consistent" if name.endswith("0") else "janus")
    pretended.failing.clear()
    for words in ([], ["--variants", "full", "--report_only"], ["--report_only"]):  # more, others, all of them
        capsys.readouterr()
        reproduced(tmp_path, *SMALL, *words)
        assert "Janus rate is left out" not in "".join(capsys.readouterr())
        rows = {row["variant"]: row["janus"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
        assert rows == ({"full": None} if "--variants" in words else {"luciddreamer": 0.5, "full": None})
        assert janus.main(["rate", str(tmp_path / "janus")]) == 0
        assert capsys.readouterr().out.startswith("luciddreamer: 0.5000 (1 of 2, 0 unsure)")
    key = json.loads((tmp_path / "janus" / "key.json").read_text())["key"]
    assert len(key) == len(set(key.values())) == 4


def test_a_report_does_not_need_labels_that_fit(tmp_path, pretended, capsys) -> None:
    reproduced(tmp_path, *SMALL)
    for labels in ("junk", '{"sheet": "other", "labels": {}}', '{"labels": {}}'):
        (tmp_path / "janus" / "labels.json").write_text(labels)
        (tmp_path / "results.json").unlink()
        reproduced(tmp_path, *SMALL, "--report_only")
        assert "The Janus rate is left out: " in "".join(capsys.readouterr())
        assert [row["janus"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]] == [None, None]


def test_labels_by_number_of_an_earlier_version_are_read(tmp_path) -> None:
    folders = {name: write_run(tmp_path / name, (5,)) for name in ("a-x", "b-x")}
    for run in folders.values():
        draw(run, 16)
    sheet = tmp_path / "sheet"
    sheet.mkdir()
    (sheet / "key.json").write_text('{"sheet": "c0ffee", "key": {"001": "b-x", "002": "a-x"}}')
    (sheet / "labels.json").write_text('{"sheet": "c0ffee", "labels": {"001": "janus"}}')
    write_sheet(sheet, folders)
    assert read_rates(sheet, sheet / "labels.json") == {"b": Rate(1, 1, 0)}
    assert 'data-sheet="c0ffee"' in (sheet / "sheet.html").read_text()


@needs_browser
def test_the_sheet_takes_keys_and_clicks_and_keeps_them(tmp_path) -> None:
    runs = {name: write_run(tmp_path / name, (5,)) for name in ("a-x", "b-x", "b-y")}
    for run in runs.values():
        draw(run, 16)
    write_sheet(tmp_path / "sheet", runs)
    key = json.loads((tmp_path / "sheet" / "key.json").read_text())["key"]
    first, second = list(key)[:2]
    with browser_page(390, accept_downloads=True) as page:
        page.goto((tmp_path / "sheet" / "sheet.html").as_uri())
        page.keyboard.press("j")
        page.locator(f"[id='{second}'] button[value=unsure]").click()
        page.reload()  # labels are kept in the browser
        pressed = page.locator("button[aria-pressed=true]").evaluate_all(
            "all => all.map(b => b.closest('.asset').id + b.value)"
        )
        assert pressed == [f"{first}janus", f"{second}unsure"] and page.locator("#count").inner_text() == "2 of 3"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        with page.expect_download() as saved:
            page.locator("#save").click()
        saved.value.save_as(tmp_path / "sheet" / "labels.json")
    rates = read_rates(tmp_path / "sheet", tmp_path / "sheet" / "labels.json")
    assert sum(rate.janus for rate in rates.values()) == 1 and rates[key[first][0]].janus == 1
