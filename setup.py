# SPDX-License-Identifier: Apache-2.0
"""What `pip install .` installs: `cograd`, the library, and `cograd3d`, which has the whole program in `program/`.

So no other name than these two is taken in an environment. All else is in pyproject.toml.
"""

import shutil

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = ("apps", "arguments", "distillation", "evaluation", "export", "gaussian_renderer", "guidance", "scene")
FOLDERS += ("tools", "toy", "trainer", "utils", "viewer")
names = find_namespace_packages(include=[pattern for name in FOLDERS for pattern in (name, f"{name}.*")])
folders = [name for name in names if "__pycache__" not in name]


class Build(build_py):
    """Without what an earlier build has left: a file that was deleted since would be installed."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    cmdclass={"build_py": Build},
    include_package_data=False,  # MANIFEST.in is of the source distribution alone
    packages=["cograd", "cograd3d", "cograd3d.program", *(f"cograd3d.program.{name}" for name in folders)],
    package_dir={"cograd3d.program": "."},
    package_data={"": ["*.css", "*.html", "*.json"], "cograd3d.program": ["configs/*.yaml", "assets/**/*"]},
)
