# SPDX-License-Identifier: Apache-2.0
"""A page on which people mark inconsistent objects without knowing what made them, and the rates that follow.

A folder's sheet keeps its identity and an asset its id, so that labels stay valid while assets come and go.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.janus import LABELS, Rate, blinded, rates
from evaluation.pages import PLAY, escape, page
from evaluation.run_folder import config_of_run
from evaluation.run_images import turntable_html, views_html
from trainer.run_records import read_object
from utils.general_utils import write_text_atomically

MAX_BYTES = 1 << 24
SHEET, KEY, SAVED = "sheet.html", "key.json", "labels.json"
KEYS = {"consistent": "c", "janus": "j", "unsure": "u"}
STYLE = """
.asset { max-width: none; border: 2px solid transparent; } .asset:focus-within, .asset.here { border-color: #36c; }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 280px), 1fr)); }
.asset button { margin: .3rem .3rem 0 0; padding: .35rem .6rem; font: inherit; }
.asset button[aria-pressed=true] { outline: 3px solid #36c; }
.bar { position: sticky; top: 0; background: Canvas; padding: .5rem 0; z-index: 1;
  border-bottom: 1px solid var(--line); }
"""
SCRIPT = """
const name = 'janus-' + document.body.dataset.sheet;
const given = JSON.parse(localStorage.getItem(name) || '{}');
const assets = [...document.querySelectorAll('.asset')]; let at = 0;
function show() {
  assets.forEach((asset, k) => { asset.classList.toggle('here', k === at);
    asset.querySelectorAll('button').forEach(b => b.setAttribute('aria-pressed', given[asset.id] === b.value)); });
  const labelled = assets.filter(asset => given[asset.id]).length;
  document.getElementById('count').textContent = labelled + ' of ' + assets.length;
}
function label(k, value) {
  given[assets[k].id] = value; localStorage.setItem(name, JSON.stringify(given));
  at = Math.min(k + 1, assets.length - 1); assets[at].scrollIntoView({block: 'center', behavior: 'smooth'}); show();
}
assets.forEach((asset, k) =>
  asset.querySelectorAll('button').forEach(b => b.addEventListener('click', () => label(k, b.value))));
document.addEventListener('keydown', event => {
  const value = {j: 'janus', c: 'consistent', u: 'unsure'}[event.key];
  if (value && !event.ctrlKey && !event.metaKey) label(at, value);
});
document.getElementById('save').addEventListener('click', () => {
  const link = document.createElement('a');
  const saved = JSON.stringify({sheet: document.body.dataset.sheet, labels: given}, null, 1);
  link.href = URL.createObjectURL(new Blob([saved], {type: 'application/json'}));
  link.download = 'labels.json'; link.click(); URL.revokeObjectURL(link.href);
});
show();
"""


def write_sheet(out: Path, runs: Mapping[str, Path]) -> None:
    """OUT/sheet.html and OUT/key.json of runs, name -> folder, whose images have been drawn.

    The key keeps what it held of other runs: there may be labels of them.
    """
    sheet, known = _key_before(out / KEY)
    key = blinded(runs, sheet)
    cards = [_card(asset, runs[name]) for asset, name in key.items()]
    intro = (
        "Mark an object that shows more than one front (faces all round), or whose sides do not fit together. "
        "What made it is hidden. Keys: j, c, u; labels are kept in this browser until they are saved."
    )
    body = [
        "<h1>Which of these are inconsistent?</h1>",
        f"<p>{escape(intro)}</p>",
        '<div class="bar"><b id="count"></b> labelled <button id="save">Save labels.json</button></div>',
        f'<div class="cards">{"".join(cards)}</div>',
    ]
    texts = {KEY: json.dumps({"sheet": sheet, "key": known | key}, indent=1) + "\n"}  # first: labels need it
    texts[SHEET] = page("Janus sheet", body, PLAY + SCRIPT, STYLE, sheet)
    for name, text in texts.items():
        write_text_atomically(out / name, text)


def _key_before(path: Path) -> tuple[str, dict[str, str]]:
    """Identity and key of the sheet that is there; new ones where there is none that any labels could fit."""
    try:
        tree = _read(path, "key")
    except ValueError:
        return secrets.token_hex(6), {}
    return tree["sheet"], tree["key"]


def _card(asset: str, run: Path) -> str:
    buttons = "".join(f'<button value="{label}">{label} ({KEYS[label]})</button>' for label in LABELS)
    prompt = escape(config_of_run(run).guidance.text)
    images = turntable_html(run, f"turntable {asset}") + views_html(run, f"{asset} from eight sides")
    return f'<div class="card asset" id="{asset}"><b>{asset}</b> {prompt}{images}{buttons}</div>'


def read_rates(out: Path, labels: Path, names: Iterable[str] | None = None) -> dict[str, Rate]:
    """Variant -> rate, of a sheet's key and the labels that it saved; of the runs `names` alone, where given.

    ValueError where they do not belong together.
    """
    key, given = (_read(path, holds) for path, holds in ((out / KEY, "key"), (labels, "labels")))
    if key["sheet"] != given["sheet"]:
        raise ValueError(f"{labels} belongs to another sheet than {out / KEY}; label {out / SHEET} and save again")
    counted = key["key"].values() if names is None else names
    return rates(given["labels"], key["key"], {name: name.split("-")[0] for name in counted})


def labelled_rates(folder: Path, names: Sequence[str], notice: Callable[[str], None]) -> dict[str, Rate]:
    """Variant -> rate of these runs, as far as people labelled them; `notice` is given what does not fit."""
    if not (folder / SAVED).is_file():
        return {}
    try:
        return read_rates(folder, folder / SAVED, names)
    except ValueError as problem:
        notice(f"The Janus rate is left out: {problem}")
        return {}


def _read(path: Path, holds: str) -> dict[str, Any]:
    """A file of the sheet: its identity, and an entry `holds` that maps texts to texts. Raises ValueError."""
    try:
        tree = read_object(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected a file that the sheet or this tool wrote"
        ) from error
    sheet, inner = tree.get("sheet"), tree.get(holds)
    if not isinstance(inner, dict) or not all(isinstance(value, str) for value in (sheet, *inner.values())):
        raise ValueError(f"{path} has no 'sheet' and {holds!r} of texts; expected a file of the sheet or of this tool")
    return tree
