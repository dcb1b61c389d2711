# SPDX-License-Identifier: Apache-2.0
"""The files of a run to take home. A file that is there is a link; others are made first, by a process of their own."""

from collections.abc import Iterator
from pathlib import Path

from nicegui import ui

from apps.web import outputs
from apps.web.exports import DOWN, FLIPPED, UP, Exports, ready_export
from apps.web.job import Job
from apps.web.messages import in_page_words
from apps.web.sizes import size_in_words
from utils.file_formats import FILE_FORMATS, SCENES

FIRST = ("html", "glb", "ply")
"""To look at, for 3D programs and games, for editors of splats; the others follow as in SCENES."""
ORDER = (*FIRST, *(name for name in SCENES if name not in FIRST))
FLIP = "Flip: for viewers that show it upside down, such as SuperSplat, gsplat.js and Babylon.js"
FILES = {
    "mp4": ("MP4", "The newest turntable video", "turntable.mp4"),
    "yaml": ("config.yaml", "All settings of the run; train.py --opt takes it", "config.yaml"),
}
"""Of what needs not be made: key -> title, what it is, and the end of its address."""


class Downloads:
    """Remembers the run whose files are offered, and what this tab has requested and not yet received."""

    def __init__(self, exports: Exports) -> None:
        self.exports = exports
        self.job: Job | None = None
        self._expected: set[tuple[Path, str, str]] = set()
        with ui.element("section").classes("card").props('aria-label="Downloads"') as self.card:
            ui.label("Downloads").classes("heading")
            with ui.element("div").classes("downloads"):
                formats = {name: _Tile(name.upper(), FILE_FORMATS[name].description) for name in ORDER}
                self.files = {key: _Tile(title, about) for key, (title, about, _) in FILES.items()}
            self.flip = ui.checkbox(FLIP, on_change=lambda: self.show(self.job)).classes("quiet")
            self.flip.props('dense aria-label="Flip"')
            self.problem = ui.label().classes("bad").props("role=alert")
        self.formats = formats
        for name, tile in formats.items():
            tile.button.on_click(lambda name=name: self._request(name))
            tile.cancel.on_click(lambda name=name: self._cancel(name))

    def show(self, job: Job | None) -> None:
        """Offers the files of a run that has saved a scene."""
        self.job = job
        self.card.set_visibility(job is not None and outputs.newest(job.folder, outputs.SCENE) is not None)
        if job is None or not self.card.visible:
            return
        for format, tile in self.formats.items():
            self._show_format(job, format, tile)
        for key, (_, _, file) in FILES.items():
            if key == "mp4" and outputs.newest(job.folder, outputs.TURNTABLE) is None:
                self.files[key].unlink("none yet; a run with save_video makes one", is_busy=False, is_enabled=False)
            else:
                self.files[key].link(job.address(file), f"{job.name}-{file}")
        self.problem.set_text("\n".join(self._problems(job)))

    def _show_format(self, job: Job, format: str, tile: "_Tile") -> None:
        up = self._up(format)
        ready = ready_export(job.folder, format, up)
        if ready is None:
            progress = self.exports.progress(job.folder, format, up)
            tile.unlink("" if progress is None else f"{progress.part}, {progress.done:.0%}", progress is not None)
            return
        address = job.address(f"scene.{format}?up={up}&v={ready.stat().st_mtime_ns}")
        name = job.name + FLIPPED[up] + FILE_FORMATS[format].suffix
        tile.link(address, name, f"ready: {size_in_words(ready.stat().st_size)}")
        if (job.folder, format, up) in self._expected:
            self._expected.remove((job.folder, format, up))
            ui.download.from_url(address, name)

    def _request(self, format: str) -> None:
        """Has an export made; this tab fetches it once it is there, and every tab then has the link."""
        up = self._up(format)
        if self.job is not None and ready_export(self.job.folder, format, up) is None:  # a link needs no help
            self._expected.add((self.job.folder, format, up))
            self.exports.request(self.job.folder, format, up)
            self.show(self.job)

    def _cancel(self, format: str) -> None:
        """Ends an export that this tab, or another, has requested."""
        if self.job is not None:
            self.exports.cancel(self.job.folder, format, self._up(format))
            self.show(self.job)

    def _up(self, format: str) -> str:
        """The axis that points up: glTF and the page of the 3D view have their own."""
        return DOWN if self.flip.value and "up" in FILE_FORMATS[format].options else UP

    def _problems(self, job: Job) -> Iterator[str]:
        for format in SCENES:
            up = self._up(format)
            if problem := self.exports.problem(job.folder, format, up):
                self._expected.discard((job.folder, format, up))
                yield f"{format.upper()}: {in_page_words(problem)}"


class _Tile:
    """A button with a title and a line below it, and one to cancel while it is busy; a link where the file is there."""

    def __init__(self, title: str, about: str) -> None:
        self.about = about[:1].upper() + about[1:]
        with ui.element("div").classes("tile"):
            with ui.button(color=None).props("flat no-caps").classes("file") as self.button, ui.element("div"):
                ui.label(title).style("text-align: left; font-weight: 600")
                self.line = ui.label(self.about).classes("about")
            self.cancel = ui.button("Cancel").props(f'flat dense no-caps aria-label="Cancel the {title} export"')
            self.cancel.classes("cancel")

    def link(self, address: str, name: str, line: str = "") -> None:
        """Makes it a link to a file that the browser saves as `name`."""
        self._set(line, is_busy=False)
        if self.button.props.get("href") != address:
            self.button.props.update(href=address, download=name)

    def unlink(self, line: str, is_busy: bool, is_enabled: bool = True) -> None:
        """Makes it a button, which can be pressed or not. line: what stands before its description."""
        self._set(line, is_busy, is_enabled)
        if "href" in self.button.props:
            self.button.props(remove="href download")

    def _set(self, line: str, is_busy: bool, is_enabled: bool = True) -> None:
        self.button.set_enabled(is_enabled)
        self.line.set_text(f"{line[:1].upper()}{line[1:]}. {self.about}" if line else self.about)
        self.button.classes(add="busy" if is_busy else "", remove="" if is_busy else "busy")
        self.cancel.set_visibility(is_busy)
