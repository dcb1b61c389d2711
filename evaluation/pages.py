# SPDX-License-Identifier: Apache-2.0
"""Pages of one file: no link leaves them, images and videos are inside. Readable on a phone and on paper."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

JPEG_QUALITY = 88
STYLE = """
:root { color-scheme: light dark; --line: #8886; --quiet: #777; --card: #8881; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .45rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
th { font-weight: 600; vertical-align: bottom; } td:not(:first-child) { white-space: nowrap; }
td:first-child { min-width: 9rem; }
small, .quiet { color: var(--quiet); font-size: .85em; } td small { display: block; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.card { max-width: 260px; background: var(--card); border-radius: 6px; padding: .6rem; min-width: 0; }
.card video, .card img, details img, figure img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.card video { width: 100%; cursor: pointer; background: #fff; }
figure { margin: .6rem 0; } figcaption { color: var(--quiet); font-size: .85em; overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; } pre { overflow-x: auto; }
li, p, h1, h2, h3 { overflow-wrap: anywhere; }
"""
PLAY = """
for (const video of document.querySelectorAll('video')) {
  const play = () => { const started = video.play(); if (started) started.catch(() => {}); };
  video.addEventListener('mouseenter', play);
  video.addEventListener('mouseleave', () => video.pause());
  video.addEventListener('click', () => video.paused ? play() : video.pause());
}
"""


def page(title: str, body: Sequence[str], script: str = PLAY, style: str = "", sheet: str = "") -> str:
    """A whole HTML document; `body` and `script` are trusted, the title and the sheet's identity are escaped."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}{style}</style>\n</head>\n<body data-sheet=\"{escape(sheet)}\">\n"
        + "\n".join(body)
        + f"\n<script>{script}</script>\n</body>\n</html>\n"
    )


def escape(text: object) -> str:
    """Text of any origin as HTML, quotes included; bytes of a file's name that are no UTF-8 become question marks."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide. Cells are HTML."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>'


def jpeg(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB as a JPEG file."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return encoded.tobytes()


def data_uri(content: bytes, kind: str) -> str:
    """`kind` is a MIME type, such as image/jpeg."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def image(content: bytes, alt: str, kind: str = "image/jpeg") -> str:
    """An image, with the words for those who do not see it."""
    return f'<img src="{data_uri(content, kind)}" alt="{escape(alt)}">'


def image_file(path: Path, alt: str) -> str:
    """A PNG or JPEG file as an image."""
    return image(path.read_bytes(), alt, "image/png" if path.suffix == ".png" else "image/jpeg")


def video_file(path: Path, poster: bytes, alt: str) -> str:
    """An MP4 file that plays under the pointer or at a touch."""
    source = data_uri(path.read_bytes(), "video/mp4")
    return (
        f'<video src="{source}" poster="{data_uri(poster, "image/jpeg")}" muted loop playsinline preload="none" '
        f'aria-label="{escape(alt)}"></video>'
    )
