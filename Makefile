# Every target builds .venv first if it isn't there or pyproject.toml or constraints.txt has changed since.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FAST := not slow and not gpu and not browser
# Each worker has one thread and needs some 2 GB. make test WORKERS=0 runs all in one process.
WORKERS ?= logical

.PHONY: demo test check slow browser bench docs clean

demo: $(READY)  ## one audit of the shipped model, small; ends by naming its report
	rm -rf runs/demo
	$(BIN)/diffshield audit --model testbed --quick --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest -m "$(FAST)" -n $(WORKERS) --maxprocesses 4 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(READY)
	$(BIN)/python -m pytest -m slow

browser: $(READY)  ## needs chromium (Debian: apt-get install chromium)
	$(BIN)/python -m pytest -m browser

FIGURES := speed detectors mitigations shield bypass gallery rewordings requests localizers revival attacks text-free resurgence traps meaning
bench: $(FIGURES:%=bench-%)  ## every figure in README.md and docs, anew; hours, so also one at a time: make bench-shield
	$(BIN)/diffshield bench pages

bench-speed: $(READY)
	$(BIN)/python -m benchmarks --out docs/bench

bench-detectors: $(READY)  ## those that need more evaluations for a score get fewer noises
	$(BIN)/diffshield bench detectors --out docs/bench --names structure_gap,noise_gap,anisotropy,attention_entropy
	$(BIN)/diffshield bench detectors --out docs/bench --names sharpness,ssim_gap,stability --seeds 4
	$(BIN)/diffshield bench detectors --out docs/bench --names bright_ending --seeds 1

bench-%: $(READY)
	$(BIN)/diffshield bench $* --out docs/bench

docs: $(READY)  ## the site, in build/site
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist *.egg-info

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, and $(PYTHON) is older: make PYTHON=/path/to/python3 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@
