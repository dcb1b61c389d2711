# SPDX-License-Identifier: Apache-2.0
"""`python -m cograd3d NAME ...` is `cograd3d-NAME ...`; for several GPUs: `torchrun -m cograd3d train ...`."""

import sys

from cograd3d.cli import COMMANDS, run

name = sys.argv[1] if len(sys.argv) > 1 else ""
if name == "--version":  # the same answer from each of them
    sys.argv.insert(1, name := "train")
if name not in COMMANDS:
    sys.exit(f"python -m cograd3d: the command is {name!r}; expected one of {', '.join(COMMANDS)}")
sys.argv = [f"cograd3d-{name}", *sys.argv[2:]]
run(name)
