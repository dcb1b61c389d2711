# SPDX-License-Identifier: Apache-2.0
"""A page in the browser that shows a run while it trains, by viser: the Gaussians, the losses, the regions, buttons.

Nothing is copied or sent while nobody looks. Buttons are pressed in viser's threads, which set flags; the training
reads them between two steps. Whoever reaches the port may look and press: it is loopback unless set otherwise.
"""

import contextlib
import io
import logging
import math
import time
from collections.abc import Mapping

import numpy as np
import torch
import viser
from tqdm import tqdm
from viser import uplot
from viser.infra import WebsockClientConnection

from arguments import Config
from scene.cameras import centre_on_sphere
from scene.gaussian_model import GaussianModel
from utils.addresses import OwnHosts, tcp_socket, url_of
from utils.sh_utils import SH2RGB
from utils.wording import counted
from viewer.loss_curves import LossCurves

LOG = logging.getLogger(__name__)
SHARE_OF_TIME = 0.1  # showing takes at most this of a run's time, however many Gaussians there are
SMOOTHING = 0.05  # weight of a step's time in the mean
AZIMUTHS = ("0°", "90°", "180°", "270°")
COLOURS = ("#1c7ed6", "#e8590c", "#2b8a3e", "#9c36b5", "#868e96")
LARGEST_FLOAT16 = 65504.0
CLOSED_BY_POLICY = 1008


class _Server(viser.ViserServer):
    """viser's server, which opens no tunnel to the outside, whatever a client asks for."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        return None

    def refuse_other_sites(self, own: OwnHosts) -> None:
        """Closes connections that a page of another site opens, before anything is sent or received.

        viser has no setting for this. Its callbacks run once a WebSocket is open and before its messages do.
        """
        connections = self._websock_server._live_connections

        async def check(client: WebsockClientConnection) -> None:
            connection = connections.get(client.client_id)
            headers = {} if connection is None or connection.request is None else connection.request.headers
            host = headers.get("Host", "")
            if connection is not None and (not own.accepts(host) or own.is_foreign(headers.get("Origin"), host)):
                await connection.close(CLOSED_BY_POLICY, "This connection comes from another site")

        self._websock_server.on_client_connect(check)


class WebViewer:
    """Remembers the server and what is on the page, what its buttons ask for, the losses, and the pace of the steps."""

    def __init__(self, config: Config) -> None:
        """Serves the page. Raises ValueError when address or port is not available."""
        self.config = config
        self._server = _open_server(config.viewer_host, config.viewer_port, config.model.workspace)
        self._paused = self._wants_checkpoint = False
        self._splats: viser.GaussianSplatHandle | None = None
        self._plot: viser.GuiUplotHandle | None = None
        self._curves = LossCurves()
        self._step_s, self._step_began_s = math.nan, math.nan
        self._presses = 0  # of Pause and Resume
        self._shown: tuple[int, bool, int] | None = None  # what _moment was at the last image
        self._next_show_s = 0.0
        self._lay_out()

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        return url_of(self.config.viewer_host, self._server.get_port())

    def note(self, iteration: int, losses: Mapping[str, float]) -> None:
        """A step is done: its losses and its time are remembered."""
        took_s = time.monotonic() - self._step_began_s
        self._step_s = took_s if math.isnan(self._step_s) else self._step_s + SMOOTHING * (took_s - self._step_s)
        self._curves.add(iteration, losses)

    def step_begins(self) -> None:
        """The next step begins; the time before does not count."""
        self._step_began_s = time.monotonic()

    def should_wait(self, finished: bool) -> bool:
        """Whether the run is to wait, or the page to stay open once it is `finished`."""
        return self._paused or (finished and self._stays.value)

    def takes_checkpoint_request(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        wanted, self._wants_checkpoint = self._wants_checkpoint, False
        return wanted

    def notify(self, title: str, text: str) -> None:
        """A note that everybody who looks sees for some seconds."""
        for client in self._server.get_clients().values():
            client.add_notification(title, text, auto_close_seconds=8.0)

    def is_due(self, iteration: int, finished: bool) -> bool:
        """Whether somebody looks and has not seen this step, at most once in viewer_interval unless the run waits."""
        moment = self._moment(iteration, finished)
        if not self._server.get_clients() or self._shown == moment:
            return False
        return moment[1] or time.monotonic() >= self._next_show_s

    def show(self, gaussians: GaussianModel, iteration: int, regions: np.ndarray | None, finished: bool) -> None:
        """Sends the scene, the numbers and the image of the regions, uint8 [H, W, 3], to all that look."""
        began_s, moment = time.monotonic(), self._moment(iteration, finished)
        with self._server.atomic():
            self._show_gaussians(gaussians)
            self._show_progress(iteration, len(gaussians.get_xyz), finished)
            self._show_losses()
            if regions is not None:
                self._regions.image = regions
                self._regions.visible = True
        self._shown = moment
        ended_s = time.monotonic()
        self._next_show_s = ended_s + max(self.config.viewer_interval, (ended_s - began_s) / SHARE_OF_TIME)

    def _moment(self, iteration: int, finished: bool) -> tuple[int, bool, int]:
        """The step, whether the run waits, and how often that was changed: each has its own image."""
        return iteration, self._paused or finished, self._presses

    def close(self) -> None:
        """May be called twice."""
        with contextlib.redirect_stdout(io.StringIO()):  # viser says goodbye
            self._server.stop()

    def _lay_out(self) -> None:
        """Makes the page, as it is before the first step."""
        config, server, gui = self.config, self._server, self._server.gui
        white = config.model.white_background
        gui.configure_theme(dark_mode=not white, show_logo=False, show_share_button=False, control_width="large")
        gui.main_panel.dock_right()
        if not white:  # viser's own dark is a grey
            server.scene.set_background_image(np.zeros((1, 1, 3), np.uint8), format="png")
        server.initial_camera.position = self._camera_position(config.cameras.default_azimuth)
        server.initial_camera.look_at = (0.0, 0.0, 0.0)
        server.initial_camera.fov = config.cameras.default_fovy
        self._status = gui.add_markdown("Loading. The first step fills the page.")
        self._progress = gui.add_progress_bar(0.0)
        self._lay_out_buttons(gui)
        with gui.add_folder("Prompts"):
            gui.add_text("Prompt", config.guidance.text, multiline=True, disabled=True)
            gui.add_text("Negative", config.guidance.negative, multiline=True, disabled=True)
        self._loss_folder = gui.add_folder("Losses")
        with self._loss_folder:
            self._numbers = gui.add_markdown("")
        with gui.add_folder("Regions", visible=config.cograd.enabled):
            self._regions = gui.add_image(np.full((1, 1, 3), 255, np.uint8), format="png", visible=False)

    def _lay_out_buttons(self, gui: viser.GuiApi) -> None:
        """Pause or Resume, Checkpoint now, whether the page stays, field of view and azimuth."""
        self._pause = gui.add_button("Pause", hint="after the current step")
        self._resume = gui.add_button("Resume", visible=False, color="green")
        checkpoint = gui.add_button(
            "Checkpoint now", hint="chkpntK.safetensors in the run folder, after the current step"
        )
        self._stays = gui.add_checkbox("Stay open at the end", False, hint="the program waits after its last step")
        degrees = round(math.degrees(self.config.cameras.default_fovy), 1)
        fov = gui.add_slider("Field of view", min=1.0, max=179.0, step=0.1, initial_value=min(max(degrees, 1.0), 179.0))
        azimuth = gui.add_button_group("Azimuth", AZIMUTHS, hint="0° is the front")
        self._pause.on_click(lambda _: self._set_paused(True))
        self._resume.on_click(lambda _: self._set_paused(False))
        checkpoint.on_click(lambda _: self._request_checkpoint())
        fov.on_update(lambda event: self._set_fov(event.target.value))
        azimuth.on_click(lambda event: self._turn(event.client, float(event.target.value.rstrip("°"))))

    def _set_paused(self, paused: bool) -> None:
        self._pause.visible, self._resume.visible = not paused, paused
        self._status.content = "Pausing after the current step." if paused else "Resumed."
        self._paused, self._presses = paused, self._presses + 1  # last: the training answers to it on the page

    def _request_checkpoint(self) -> None:
        self._wants_checkpoint = True

    def _set_fov(self, degrees: float) -> None:
        self._server.initial_camera.fov = math.radians(degrees)  # of tabs that are opened or reloaded later
        for client in self._server.get_clients().values():
            client.camera.fov = math.radians(degrees)

    def _turn(self, client: viser.ClientHandle | None, azimuth_deg: float) -> None:
        """Looks at the object from this side; 0 is its front."""
        if client is not None:
            with client.atomic():
                client.camera.position = self._camera_position(self.config.cameras.default_azimuth + azimuth_deg)
                client.camera.look_at = (0.0, 0.0, 0.0)
                client.camera.up_direction = (0.0, 0.0, 1.0)

    def _camera_position(self, azimuth_deg: float) -> np.ndarray:
        """Of a test view, [3]."""
        cameras = self.config.cameras
        angles = math.radians(cameras.default_polar), math.radians(azimuth_deg)
        radius, theta_rad, phi_rad = torch.tensor([cameras.default_radius, *angles]).unsqueeze(1)
        return centre_on_sphere(radius, theta_rad, phi_rad)[0].numpy()

    @torch.no_grad()
    def _show_gaussians(self, gaussians: GaussianModel) -> None:
        """Colours are those of SH degree 0; viser keeps covariances in float16."""
        upper = gaussians.get_covariance().unbind(1)
        covariances = torch.stack([upper[k] for k in (0, 1, 2, 1, 3, 4, 2, 4, 5)], dim=1).view(-1, 3, 3)
        shown = (
            gaussians.get_xyz,
            covariances.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16),
            SH2RGB(gaussians.parameters_in_order()["f_dc"][:, 0]).clamp(0, 1),
            gaussians.rendered_shape()[0],
        )
        centres, covs, colours, opacities = (x.cpu().numpy() for x in shown)
        if self._splats is None:
            self._splats = self._server.scene.add_gaussian_splats("/gaussians", centres, covs, colours, opacities)
        else:
            self._splats.set_gaussians(centres, covs, colours, opacities)

    def _show_progress(self, iteration: int, points: int, finished: bool) -> None:
        last = self.config.optimization.iterations
        state = "Finished" if finished else "Paused" if self._paused else "Training"
        lines = [f"**{state}** step {iteration} of {last}", f"{counted(points, 'Gaussian')}"]
        if not math.isnan(self._step_s):
            left = tqdm.format_interval(self._step_s * (last - iteration))
            lines += [f"{self._step_s * 1e3:.0f} ms a step, {left} left"]
        self._status.content = "  \n".join(lines)
        self._progress.value = 100.0 * iteration / last  # type: ignore[misc]  # as viser's examples do

    def _show_losses(self) -> None:
        table, names = self._curves.table(), self._curves.names
        if not names:
            return
        data = tuple(table)
        if self._plot is None:
            self._plot = self._new_plot(data, names)
        else:
            self._plot.data = data
        self._numbers.content = ", ".join(f"{name} {x:.3g}" for name, x in self._curves.last.items())

    def _new_plot(self, data: tuple[np.ndarray, ...], names: tuple[str, ...]) -> viser.GuiUplotHandle:
        """All losses over the steps, on a logarithmic scale."""
        series = [uplot.Series(label=name, stroke=colour, width=1) for name, colour in zip(names, COLOURS)]
        scales = {"x": uplot.Scale(time=False), "y": uplot.Scale(distr=3, log=10)}
        with self._loss_folder:
            return self._server.gui.add_uplot(data, (uplot.Series(label="step"), *series), scales=scales, aspect=1.6)


def _open_server(host: str, port: int, label: str) -> _Server:
    """A server there. Raises ValueError when it is not available: viser would take another port, or retry for ever."""
    probe, is_loopback = tcp_socket(host)
    with probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _no_port(host, port, str(error.strerror)) from None
    with contextlib.redirect_stdout(io.StringIO()):  # viser says hello
        server = _Server(host, port, label, verbose=False)
    if port not in (0, server.get_port()):
        server.stop()
        raise _no_port(host, port, "another program took it just now")
    server.refuse_other_sites(OwnHosts.of(host))
    if not is_loopback:
        LOG.warning("the viewer's page at %s, port %d, is open to all who reach it", host, server.get_port())
    return server


def _no_port(host: str, port: int, why: str) -> ValueError:
    return ValueError(
        f"viewer port {port} on {host} is not available ({why}): choose another with --viewer_port, or --viewer_port 0 "
        "for any free one"
    )
