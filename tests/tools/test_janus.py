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


@needs_browser
def test_the_sheet_takes_keys_and_clicks_and_keeps_them(tmp_path) -> None:
    runs = {name: write_run(tmp_path / name, (5,)) for name in ("a-x", "b-x", "b-y")}
    for run in runs.values():
        draw(run, 16)
    write_sheet(tmp_path / "sheet", runs, 0)
    with browser_page(390, accept_downloads=True) as page:
        page.goto((tmp_path / "sheet" / "sheet.html").as_uri())
        page.keyboard.press("j")
        page.locator("#\\30 02 button[value=unsure]").click()
        page.reload()  # labels are kept in the browser
        pressed = page.locator("button[aria-pressed=true]").evaluate_all(
            "all => all.map(b => b.closest('.asset').id + b.value)"
        )
        assert pressed == ["001janus", "002unsure"] and page.locator("#count").inner_text() == "2 of 3"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        with page.expect_download() as saved:
            page.locator("#save").click()
        saved.value.save_as(tmp_path / "sheet" / "labels.json")
    key = json.loads((tmp_path / "sheet" / "key.json").read_text())["key"]
    rates = read_rates(tmp_path / "sheet", tmp_path / "sheet" / "labels.json")
    assert sum(rate.janus for rate in rates.values()) == 1 and rates[key["001"][0]].janus == 1
