# SPDX-License-Identifier: Apache-2.0
# make demo | app | test | test-slow | test-device | test-capabilities | gpu | lint | bench | smoke | setup | clean. Needs git, Python 3.11 (newer ones are untried), and g++.
# make reproduce: the paper's tables in miniature on the toy world, in two minutes; the report is in output/reproduce.
# make cuda-report | cuda-sm70 | tsan: the CUDA kernels' registers, their code for V100, their races. No GPU needed.
# make fuzz: ten minutes of random scenes through the rasterizer's backends and its reference, then ten minutes of hostile
# settings, PLY files, checkpoints, viewers and prompts; FUZZ_ARGS="--seed 7", "--seconds 60" (each), "--cases 3".
# make crashtest: 50 SIGKILLs at random moments, each followed by --resume auto; CRASH_ARGS="--kills 5 --seed 7".
# Another environment: make test VENV=/path/to/venv. Other words for the tests: make test PYTEST_ARGS="-k scene".

VENV ?= .venv
ifneq ($(words $(VENV)),1)
$(error VENV="$(VENV)" holds a space or is empty, which make takes for several files or none; expected a path without one, such as VENV=/tmp/venv)
endif
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3))
PYTEST_ARGS ?= -n 2 --dist loadscope --no-loadscope-reorder
DEMO_ARGS ?=
FUZZ_ARGS ?=
CRASH_ARGS ?=
APP_ARGS ?=
GPU_ARGS ?=
LOCK_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCKED := $(PIP) install --quiet --no-deps --require-hashes
EXTENSIONS := submodules/diff-gaussian-rasterization submodules/simple-knn
# Where nvcc is: the stamp has another name without it, so that the kernels are compiled once it is there.
NVCC := $(shell PATH="$(CUDA_HOME)/bin:$(CUDA_PATH)/bin:$$PATH:/usr/local/cuda/bin" command -v nvcc)
INSTALLED := $(VENV)/.extensions$(if $(NVCC),,-cpu)
EXTENSION_SOURCES := $(shell find submodules -type f \( -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -name '*.cu' \
	-o -name '*.cuh' -o -name '*.toml' \) -not -path '*/build/*' -not -path '*.egg-info/*' 2>/dev/null)
CHECKED := $(wildcard app.py train.py apps arguments cograd cograd3d distillation evaluation export gaussian_renderer guidance scene tools toy trainer utils viewer)
# What compares numbers that torch computes; the other folders' tests are about texts, files, processes and pages.
NUMERICAL := tests/cograd tests/evaluation tests/gaussian_renderer/test_render.py tests/guidance tests/scene \
	tests/submodules tests/toy tests/trainer tests/utils tests/test_end_to_end.py
# Not of `make bench`: parts of the others, and what trains for an hour or into a folder that it must be given.
BENCHMARK_PARTS := $(addprefix benchmarks/,__init__.py phases.py random_sd21.py laws.py demo_time.py fine.py mip.py tiny_autoencoder.py)

.PHONY: setup setup-extra setup-dev demo app smoke reproduce test test-slow test-device test-capabilities gpu lint bench fuzz crashtest cuda-report cuda-sm70 tsan lock clean
.DELETE_ON_ERROR:

setup: $(INSTALLED)

setup-extra: $(VENV)/.requirements-extra $(INSTALLED)

setup-dev: $(VENV)/.requirements-dev $(INSTALLED)

# The locks hold every package with its hashes, but torch and its CUDA packages: of one release of torch there are several
# builds. With --no-deps no lock can pull in a build; torch, which comes last, finds its other requirements installed.
$(VENV)/.requirements: requirements.txt requirements.lock
	@command -v "$(PYTHON)" > /dev/null || { echo "PYTHON=$(or $(PYTHON),python3) is no program: install Python 3.11 or pass PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(LOCKED) -r requirements.lock
	$(PIP) install --quiet "$$(grep '^torch==' requirements.txt)"
	touch $@

$(VENV)/.requirements-extra: requirements-extra.lock $(VENV)/.requirements
	$(LOCKED) -r requirements-extra.lock
	touch $@

$(VENV)/.requirements-dev: requirements-dev.lock requirements-ray.lock $(VENV)/.requirements-extra
	$(LOCKED) -r requirements-dev.lock
	touch $@

$(INSTALLED): $(EXTENSION_SOURCES) $(VENV)/.requirements
	$(PIP) install --quiet --no-build-isolation --no-deps --force-reinstall $(addprefix ./,$(EXTENSIONS))
	@$(BIN)/python -m diff_gaussian_rasterization
	touch $@

demo: setup
	$(BIN)/python train.py --opt configs/quickstart.yaml --workspace quickstart --overwrite --test_ratio 1 $(DEMO_ARGS)
	@echo "Look at the turntable: $$(ls -t output/quickstart/videos/*/video_rgb_*.mp4 | head -n 1)"

# The web page; it prints its address, and serves until Ctrl-C. APP_ARGS="--port 8000".
app: setup-extra
	$(BIN)/python app.py $(APP_ARGS)

# The demo's shape in a few steps: every output file must be there in the end.
smoke: setup
	rm -rf output/smoke
	$(BIN)/python train.py --opt configs/quickstart.yaml --workspace smoke --iterations 20
	@for file in config.yaml cfg_args cameras.json point_cloud/iteration_20/point_cloud.ply \
		videos/20_iteration/video_rgb_20.mp4; do \
		test -s output/smoke/$$file || { echo "smoke: output/smoke/$$file is missing or empty"; exit 1; }; \
	done
	@echo "smoke: every output file is there"

reproduce: setup
	$(BIN)/python tools/reproduce.py --prior toy --miniature --out output/reproduce

test: setup-dev
	$(BIN)/python -m pytest -q -m "not device and not slow" $(PYTEST_ARGS)

# Whole runs, browsers and killed processes of which `make test` tries a few.
test-slow: setup-dev
	$(BIN)/python -m pytest -q -m "slow and not device" $(PYTEST_ARGS)

# Every option of the trainer on a simulated CUDA device, of which `make test` tries a few; and the rehearsal of `make gpu`.
test-device: setup-dev
	$(BIN)/python -m pytest -q tests/simulated_cuda $(PYTEST_ARGS)

# What only a GPU can show, in ten minutes; the page is output/gpu_check/gpu_check.md. GPU_ARGS="--budget 300 --size tiny".
gpu: setup-dev
	$(BIN)/python tools/gpu_check.py $(GPU_ARGS)

# The numerical tests with torch's kernels for other vector widths than this CPU's own, which `make test` has run with.
test-capabilities: setup-dev
	@own=$$($(BIN)/python -c "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"); \
	for capability in default avx2; do \
		test "$$capability" != "$$own" || { echo "== $$capability: this CPU's own, see make test"; continue; }; \
		echo "== ATEN_CPU_CAPABILITY=$$capability"; \
		ATEN_CPU_CAPABILITY=$$capability $(BIN)/python -m pytest -q $(PYTEST_ARGS) -p tests.amx_cpu -m "not slow" $(NUMERICAL) || exit 1; \
	done

lint: setup-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy $(CHECKED)

bench: setup-extra
	@for script in $(filter-out $(BENCHMARK_PARTS),$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

fuzz: setup-dev
	$(BIN)/python tests/submodules/fuzz.py --seconds 600 $(FUZZ_ARGS)
	$(BIN)/python -m tests.fuzzing --seconds 600 $(FUZZ_ARGS)

crashtest: setup-dev
	$(BIN)/python tests/reliability/crash.py $(CRASH_ARGS)

# Registers and spills of the installed CUDA kernels, as the compiler reported them; fails if one spills.
cuda-report: setup
	$(BIN)/python tools/cuda_report.py

# CUDA 13's nvcc has no sm_70 (V100) any more; NVRTC of CUDA 12.9 compiles the kernels and needs no other part of CUDA.
cuda-sm70: $(VENV)/.requirements
	$(PIP) install --quiet --no-deps --upgrade --target build/nvrtc "nvidia-cuda-nvrtc-cu12==12.9.*" \
		|| echo "cuda-sm70: NVRTC could not be fetched from PyPI"
	$(BIN)/python tools/compile_sm70.py build/nvrtc build/sm70

# The CUDA kernels on a CPU, a thread for each of theirs, under ThreadSanitizer; then once with a barrier missing.
tsan:
	$(or $(PYTHON),python3) tests/cuda_shim/tsan.py

# requirements*.lock from requirements*.txt: versions and hashes of the whole closure. LOCK_ARGS="--upgrade".
lock: $(VENV)/.requirements
	$(PIP) install --quiet uv==0.13.9
	$(BIN)/python tools/lock_requirements.py $(LOCK_ARGS)

clean:
	rm -rf $(addsuffix /build,$(EXTENSIONS) tests/cuda_shim) build output/smoke .pytest_cache .mypy_cache .ruff_cache .hypothesis
