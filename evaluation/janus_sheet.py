# SPDX-License-Identifier: Apache-2.0
"""A page on which people mark inconsistent objects without knowing what made them, and the rates that follow."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.janus import LABELS, Rate, blinded, rates
from evaluation.pages import PLAY, escape, page
from evaluation.run_folder import config_of_run
from evaluation.run_images import turntable_html, views_html
from trainer.run_records import read_object

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
  document.getElementById('count').textContent = Object.keys(given).length + ' of ' + assets.length;
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


def write_sheet(out: Path, runs: Mapping[str, Path], seed: int) -> None:
    """OUT/sheet.html and OUT/key.json of runs, name -> folder, whose images have been drawn."""
    key = blinded(list(runs), seed)
    cards = [_card(number, runs[name]) for number, name in key.items()]
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
    document = page("Janus sheet", body, PLAY + SCRIPT, STYLE, _identity(key))
    out.mkdir(parents=True, exist_ok=True)
    (out / SHEET).write_text(document, encoding="utf-8")
    (out / KEY).write_text(json.dumps({"sheet": _identity(key), "key": key}, indent=1) + "\n", encoding="utf-8")


def _identity(key: Mapping[str, str]) -> str:
    """Tells one sheet's labels from another's, and nothing else."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]


def _card(number: str, run: Path) -> str:
    buttons = "".join(f'<button value="{label}">{label} ({KEYS[label]})</button>' for label in LABELS)
    prompt = escape(config_of_run(run).guidance.text)
    images = turntable_html(run, f"turntable {number}") + views_html(run, f"{number} from eight sides")
    return f'<div class="card asset" id="{number}"><b>{number}</b> {prompt}{images}{buttons}</div>'


def read_rates(out: Path, labels: Path) -> dict[str, Rate]:
    """Variant -> rate, of a sheet's key and the labels that it saved. ValueError where they do not belong together."""
    key, given = (_read(path, holds) for path, holds in ((out / KEY, "key"), (labels, "labels")))
    if key.get("sheet") != given.get("sheet"):
        raise ValueError(f"{labels} belongs to another sheet than {out / KEY}; label {out / SHEET} and save again")
    return rates(given["labels"], key["key"], {name: name.split("-")[0] for name in key["key"].values()})


def _read(path: Path, holds: str) -> dict[str, Any]:
    """A file of the sheet, whose entry `holds` maps texts to texts. Raises ValueError."""
    try:
        tree = read_object(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected a file that the sheet or this tool wrote"
        ) from error
    inner = tree.get(holds)
    if not isinstance(inner, dict) or not all(isinstance(value, str) for value in inner.values()):
        raise ValueError(f"{path} has no {holds!r} of texts; expected a file of the sheet or of this tool")
    return tree
