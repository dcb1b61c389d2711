# SPDX-License-Identifier: Apache-2.0
"""The web page: `python app.py`, then open the address that it prints. docs/web_app.md says what is on it.

It writes settings, runs train.py in a process of its own, and shows what the run folder holds. The parts are in
apps/web/; those that draw the page need NiceGUI.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -P and PYTHONSAFEPATH=1 leave out

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import importlib.util

from arguments.exit_codes import FINISHED
from utils.addresses import free_port, is_loopback
from utils.missing_module import how_to_install


@program.refuses("app.py", OSError, ValueError)
def main(argv: list[str]) -> int:
    """Serves until Ctrl-C; the exit status."""
    parser = program.parser("A web page to start, watch and download runs.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine's")
    parser.add_argument("--port", type=int, default=7860, help="0: any free one")
    parser.add_argument(
        "--allow_host", nargs="+", default=[], metavar="NAME", help="names of a proxy that people open the page by"
    )
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder of the run folders")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("nicegui") is None:
        raise ValueError(f"the page needs NiceGUI, which is not installed: {how_to_install()}")
    port = free_port(args.host, args.port)
    args.output.mkdir(parents=True, exist_ok=True)
    if not is_loopback(args.host):
        print(
            f"Warning: whoever reaches {args.host} can start and read runs, for the page has no password: put a proxy "
            "that asks for one before it, or use --host 127.0.0.1 and an SSH tunnel.",
            file=sys.stderr,
        )
    from apps.web.server import serve
    from apps.web.server_state import ServerState

    serve(ServerState(args.output), args.host, port, args.allow_host)
    return FINISHED


if __name__ == "__main__":
    program.run(main)
