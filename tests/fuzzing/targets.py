# SPDX-License-Identifier: Apache-2.0
"""All targets."""

from tests.fuzzing.checkpoint_target import CHECKPOINT
from tests.fuzzing.ply_target import PLY
from tests.fuzzing.prompts_target import PROMPTS
from tests.fuzzing.run_folder_target import RUN_FOLDER
from tests.fuzzing.settings_target import CFG_ARGS, SETTINGS
from tests.fuzzing.torch_files_target import LORA, UPSTREAM
from tests.fuzzing.viewer_target import VIEWER

TARGETS = (SETTINGS, CFG_ARGS, PLY, CHECKPOINT, VIEWER, PROMPTS, UPSTREAM, LORA, RUN_FOLDER)
