# The environment lives in .venv/ in this checkout; every target sets it up if it is not there yet.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Where the demo's files go; ignored by git.
DEMO ?= demo

.PHONY: demo test test-gpu lint bench bench-memory clean

demo: $(INSTALLED)  ## the whole job: world, training, export, bench, search
	$(BIN)/caan demo $(DEMO)

test: $(INSTALLED)  ## all tests; those that need ../shared or a GPU skip with the reason
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/types && ln -sfn ../.. .venv/types/caan
	MYPYPATH=.venv/types $(BIN)/mypy -p caan

test-gpu: $(INSTALLED)  ## on a machine with an NVIDIA GPU: its tests, then the bench, whose numbers go to docs/benchmarks/
	$(BIN)/caan doctor
	$(BIN)/pytest -m gpu
	$(BIN)/caan-bench --synthetic --json docs/benchmarks/$$(date +%F)-gpu-synthetic.json

bench: $(INSTALLED)  ## speed at the paper's size, without a trained model
	$(BIN)/caan-bench --synthetic --retrieval

bench-memory: $(INSTALLED)  ## the memory to search 25,000 captions in 5,000 images, 125 million pairs: half an hour
	$(BIN)/python -m caan.bench.memory

clean:
	rm -rf .venv $(DEMO) caan_deploy.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "caan needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 4; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,export,rtx,demo,plot,dev]'
	touch $@
