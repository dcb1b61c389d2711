# SPDX-License-Identifier: Apache-2.0
"""Two runs side by side: python tools/compare_upstream.py A B [--html page.html]

A and B are run folders, of this program or of LucidDreamer itself: settings that differ, statistics of the Gaussians,
both clouds from the same cameras with PSNR and SSIM, a run's own images against ours of its cloud, times where known.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

from collections.abc import Sequence

import numpy as np

from evaluation.comparison.compare import (
    AMPLIFIED,
    Row,
    ViewPair,
    common_cameras,
    differing_settings,
    rows_of,
    side_by_side,
    statistics,
    views,
)
from evaluation.comparison.folder import Side, read_side
from evaluation.pages import escape, image, jpeg, page, table
from utils.general_utils import check_writable, write_text_atomically

VIEWS = 8


def sections(a: Side, b: Side) -> list[tuple[str, list[Row]]]:
    """Tables of three columns, each with its title."""
    return [
        ("Runs", rows_of(_about(a), _about(b))),
        ("Settings that differ", differing_settings(a, b) or [("(none)", "", "")]),
        ("Gaussians", rows_of(statistics(a.gaussians), statistics(b.gaussians))),
        ("Time", rows_of(a.timing, b.timing) or [("(not known)", "", "")]),
    ]


def _about(side: Side) -> dict[str, object]:
    return {
        "made by": side.kind,
        "prompt": side.config.guidance.text,
        "iteration": side.iteration,
        "cameras.json": f"{len(side.cameras)} cameras" if side.cameras else "missing",
    }


def view_rows(seen: Sequence[ViewPair], numbers: Sequence[int]) -> list[list[str]]:
    """A line a view and their mean: PSNR and SSIM of A against B, and of each run's own image against ours."""
    lines = [[str(n), f"{v.psnr:.2f}", f"{v.ssim:.4f}", *map(_decibel, v.own)] for n, v in zip(numbers, seen)]
    means = [f"{np.mean([v.psnr for v in seen]):.2f}", f"{np.mean([v.ssim for v in seen]):.4f}"]
    return [*lines, ["mean", *means, *(_decibel(_mean([v.own[k] for v in seen])) for k in (0, 1))]]


VIEW_HEAD = ["view", "PSNR of A and B", "SSIM", "A's own image, PSNR", "B's own image, PSNR"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal, cut at 48 characters."""
    cells = [
        [cell if len(cell) <= 48 else cell[:45] + "..." for cell in row] for row in [list(header), *map(list, rows)]
    ]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def as_html(a: Side, b: Side, seen: Sequence[ViewPair], numbers: Sequence[int], source: str) -> str:
    """The same as one page, with images."""
    body = [f"<h1>A: {escape(a.path.name)}, B: {escape(b.path.name)}</h1>"]
    notes = [f"<li>{name}: {escape(note)}</li>" for name, side in (("A", a), ("B", b)) for note in side.notes]
    body += [f"<ul>{''.join(notes)}</ul>"] if notes else []
    for title, rows in sections(a, b):
        body += [f"<h2>{escape(title)}</h2>", table(["", "A", "B"], [[escape(cell) for cell in row] for row in rows])]
    body += [f"<h2>From the same cameras ({escape(source)})</h2>", table(VIEW_HEAD, view_rows(seen, numbers))]
    body.append(f"<p class=quiet>A, B, and their difference {AMPLIFIED} times on white.</p>")
    for number, view in zip(numbers, seen):
        shown = image(jpeg(side_by_side(view)), f"view {number}: A, B, difference")
        body.append(f"<figure>{shown}<figcaption>view {number}: {view.psnr:.2f} dB</figcaption></figure>")
    return page(f"{a.path.name} and {b.path.name}", body, script="")


@program.refuses("compare_upstream", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 compared, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--views", type=int, default=VIEWS, help="cameras at most")
    parser.add_argument("--html", type=Path, help="write a page with the images there")
    args = parser.parse_args(argv)
    program.check_bounds(args, {"views": (1, 100_000)})
    if args.html is not None:
        check_writable(args.html)
    a, b = read_side(args.a), read_side(args.b)
    for name, side in (("A", a), ("B", b)):
        print("\n".join([f"{name}: {side.path}", *(f"  {note}" for note in side.notes)]))
    for title, rows in sections(a, b):
        print(f"\n{title}\n{as_text(['', 'A', 'B'], rows)}")
    numbers, cameras, source = common_cameras(a, b, args.views)
    seen = views(a, b, numbers, cameras)
    print(f"\nFrom the same cameras ({source})\n{as_text(VIEW_HEAD, view_rows(seen, numbers))}")
    if args.html is not None:
        write_text_atomically(args.html, as_html(a, b, seen, numbers, source))
        print(f"\nThe page is {args.html}")
    return 0


if __name__ == "__main__":
    program.run(main)
