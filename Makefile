# Assay: `make demo` shows the whole way on a real model; `make test` passes the whole suite. Everything lands in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# torch first and alone: on a machine without CUDA its pin gives the CPU build, and nothing later may replace it.
TORCH := $(shell grep '^torch==' constraints.txt)
CODE := assay tests benchmarks runs docs web-ui/make.py
# Libraries that `make bench` compares with, in an environment of their own; their pins are in benchmarks/peers.txt.
PEERS ?= .venv-peers
PEER_PIP := $(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet
# sae-bench, which `make bench-evals` compares with, in another: benchmarks/peers-saebench.txt.
SAEBENCH ?= .venv-saebench
SAEBENCH_PIP := $(SAEBENCH)/bin/python -m pip --disable-pip-version-check install --quiet

.PHONY: help demo test setup check bench bench-setup bench-evals docs web constraints clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup  ## train and measure SAEs on a real language model, in minutes
	$(BIN)/assay demo

test: $(VENV)/.test  ## the whole suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

setup: $(VENV)/.setup  ## only the environment

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Assay needs Python 3.11 or later; $$($(PYTHON) -V) was found. Say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. On Debian: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing $(TORCH): about 200 MB, once'
	@$(PIP) install --quiet '$(TORCH)'
	@touch $@

$(VENV)/.setup: $(VENV)/.torch pyproject.toml
	@echo 'Installing Assay and what it needs: about 150 MB, once'
	@$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.setup
	@echo 'Installing what the tests need'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

check: $(VENV)/.test  ## lint, types, floors, docs
	$(BIN)/ruff check $(wildcard $(CODE))
	$(BIN)/ruff format --check $(wildcard $(CODE))
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/test_layers.py tests/docs/test_reference.py

bench: $(VENV)/.test bench-setup  ## speed beside other libraries and the floor, measured here: about two hours
	ASSAY_PEERS=$(abspath $(PEERS)) $(BIN)/python -m benchmarks speed scaling

bench-setup: $(PEERS)/.done  ## only the other libraries' environment

$(PEERS)/.done: benchmarks/peers.txt constraints.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@echo 'Installing the libraries to compare with: about 400 MB, once'
	@$(PEER_PIP) '$(TORCH)'
	@$(PEER_PIP) --constraint benchmarks/peers.txt sae-lens eai-sparsify
	@$(PEER_PIP) --constraint benchmarks/peers.txt --no-deps dictionary-learning || echo 'dictionary_learning is not to be had: left out'
	@$(PEER_PIP) --constraint benchmarks/peers.txt --no-deps overcomplete || echo 'overcomplete is not to be had: left out'
	@touch $@

bench-evals: $(VENV)/.test $(SAEBENCH)/.done  ## our evals beside those of sae-bench, measured here: ten minutes
	ASSAY_SAEBENCH=$(abspath $(SAEBENCH)) $(BIN)/python -m benchmarks sae_bench

$(SAEBENCH)/.done: benchmarks/peers-saebench.txt constraints.txt
	@test -x $(SAEBENCH)/bin/python || $(PYTHON) -m venv $(SAEBENCH)
	@echo 'Installing sae-bench: about 500 MB, once'
	@$(SAEBENCH_PIP) '$(TORCH)'
	@$(SAEBENCH_PIP) --constraint benchmarks/peers-saebench.txt sae-lens scikit-learn seaborn tabulate xgboost-cpu zstandard
	@$(SAEBENCH_PIP) --constraint benchmarks/peers-saebench.txt --no-deps sae-bench sae-probes
	@touch $@

docs: $(VENV)/.test  ## regenerate the reference pages from docstrings
	$(BIN)/python docs/generate.py

web: $(VENV)/.test  ## build the pages of `assay serve` (needs Node 20; using them does not)
	$(BIN)/python web-ui/make.py

constraints:  ## refresh the pins (review the diff)
	rm -rf $(VENV)-pins && $(PYTHON) -m venv $(VENV)-pins
	$(VENV)-pins/bin/python -m pip install --quiet '$(TORCH)'
	$(VENV)-pins/bin/python -m pip install --quiet --upgrade '.[test]'
	{ echo "# Pinned versions of everything make installs. Refresh with: make constraints"; echo '$(TORCH)'; \
	  $(VENV)-pins/bin/python -m pip freeze --exclude assay-sae --exclude torch | grep '=='; } > constraints.txt
	rm -rf $(VENV)-pins

clean:  ## remove the environments and the demo's store
	rm -rf $(VENV) $(PEERS) $(SAEBENCH) demo-store
