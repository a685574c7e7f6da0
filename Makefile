# The environment is .venv/ in this checkout; every target sets it up if it is missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# An environment with the oldest versions that pyproject.toml allows.
LOWEST := .venv/lowest
# Files in the order of tests/conftest.py: the longest first.
TWO_PROCESSES := -n 2 --dist loadfile --no-loadscope-reorder
# The demo's output folder, ignored by git.
DEMO ?= demo

# Output of make gpu-kit, ignored by git, its size, and its data set: SCAN's format, with model.pt; none: the demo's.
# Output folder of make gpu-record, and more options for it, as --rehearse.
KIT ?= gpu-kit
KIT_OPTIONS ?=
KIT_MB ?= 60
FLICKR8K ?= $(wildcard ../shared/data/flickr8k)
RECORD ?= docs/benchmarks
RECORD_OPTIONS ?=

# Scenes of make bench-large.
IMAGES ?= 100000

# Seconds per C++ fuzzer.
FUZZ_SECONDS ?= 60

DOCS_INSTALLED := .venv/.docs-installed

# Builds are in cpp/build-*, ignored by git, each with only what its checks need. ONNX Runtime is outside cpp/: CMake
# installs no path to a library inside the project.
CPP_DATA := $(CURDIR)/cpp/build-data
CPP_ROOMS := cpp/src cpp/include cpp/kernels cpp/python cpp/examples cpp/bench cpp/tests cpp/fuzz
CPP_SETUP := .venv/.cpp-installed
ONNXRUNTIME_ROOT ?= $(CURDIR)/.venv/onnxruntime
# With ccache, make native, test-cpp and later builds compile equal sources once.
ifneq ($(shell command -v ccache),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
endif
# Highway, if no package of 1.2 or newer is installed.
HIGHWAY_ROOT ?= $(CURDIR)/.venv/highway
NATIVE := .venv/.native-installed
CPP_CMAKE = cmake --log-level=WARNING -G Ninja -S cpp -DONNXRUNTIME_ROOT=$(ONNXRUNTIME_ROOT) -DCMAKE_PREFIX_PATH=$(HIGHWAY_ROOT)
CPP_CHECKED = $(CPP_CMAKE) -DCAAN_TEST_DATA=$(CPP_DATA) -DCMAKE_BUILD_TYPE=Checked -DCMAKE_CXX_FLAGS=-O0 -DCAAN_BUILD_EXAMPLES=OFF
# AddressSanitizer and libstdc++ must be preloaded, or it does not see exceptions. Python itself leaks.
CPP_PYTEST = CAAN_CPP_REQUIRED=1 CAAN_CPP_LIBRARY=cpp/build-asan/libcaan.so CAAN_CPP_BUILD=cpp/build-release \
  ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)"

.PHONY: check demo docs native native-if-possible test test-each test-lowest attack test-cpp test-cpp-static fuzz-cpp lint-cpp test-gpu gpu-record gpu-kit lint dist bench bench-cpp bench-memory bench-large clean

demo: $(INSTALLED) native-if-possible  ## the whole workflow: world, training, export, bench, search
	$(BIN)/caan demo $(DEMO)

native: $(NATIVE)  ## caan-native, the faster scorer for CPUs; needs a C++ compiler

# For targets that also work without it.
native-if-possible: $(INSTALLED)
	@$(MAKE) --no-print-directory native >.venv/native.log 2>&1 || \
	  echo "continuing without caan-native, the faster scorer for CPUs; make native says what it needs" >&2

# Not --quiet, which keeps MkDocs from counting warnings.
docs: $(DOCS_INSTALLED)  ## the documentation, into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	CAAN_SITE=site $(BIN)/pytest -q tests/test_docs.py -k 'site or references'

# Not tests/cpp, which make test-cpp runs with a library it builds.
check: lint  ## what to run after a change: lint, types, and the tests that are not slow
	$(BIN)/pytest -q $(TWO_PROCESSES) -m "not slow and not attack and not gpu" --ignore tests/cpp

test: $(INSTALLED)  ## all tests; those that need ../shared or a GPU skip with the reason
	$(BIN)/pytest $(TWO_PROCESSES)

test-each: $(INSTALLED)  ## every test file in its own process, in random order: run weekly
	@failed=; for file in $$(find tests -name 'test_*.py' | shuf); do \
	  echo "$$file"; $(BIN)/pytest -q --no-header $$file; code=$$?; \
	  test $$code -eq 0 || test $$code -eq 5 || failed="$$failed $$file"; \
	done; echo "failed alone:$${failed:- none}"; test -z "$$failed"

test-lowest: $(LOWEST)/.installed  ## export, engine, eval and search once with the oldest allowed versions
	$(LOWEST)/bin/python tests/lowest.py

attack: $(INSTALLED)  ## all of tests/attacks, including the long ones
	$(BIN)/pytest $(TWO_PROCESSES) -m 'attack or not attack' tests/attacks

test-cpp: $(NATIVE) $(CPP_SETUP) $(CPP_DATA)/expected.json  ## the C++ runtime: sanitizers, installed programs, the same answers as Python
	$(CPP_CMAKE) -B cpp/build-release -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
	cmake --build cpp/build-release
	$(CPP_CHECKED) -B cpp/build-asan -DCAAN_SANITIZE=address,undefined -DCAAN_BUILD_TESTS=ON \
	  -DCAAN_PREBUILT_KERNELS=$(CURDIR)/cpp/build-release
	cmake --build cpp/build-asan --target caan caan-tests caan-allocation-tests caan-kernel-tests
	ctest --test-dir cpp/build-asan --output-on-failure -R '^caan-(tests|allocation-tests|kernel-tests)$$'
	$(CPP_CHECKED) -B cpp/build-tsan -DCAAN_SANITIZE=thread -DCAAN_BUILD_TESTS=ON
	cmake --build cpp/build-tsan --target caan-thread-tests caan-kernel-thread-tests
	setarch -R ctest --test-dir cpp/build-tsan --output-on-failure -R '^caan-(kernel-)?thread-tests$$'
	$(CPP_PYTEST) $(BIN)/pytest $(TWO_PROCESSES) tests/cpp
	CAAN_WHEEL=1 HIGHWAY_ROOT=$(HIGHWAY_ROOT) $(BIN)/pytest tests/native/test_wheel.py

test-cpp-static: $(NATIVE) $(CPP_SETUP)  ## the static library, installed and linked by external programs
	$(CPP_CMAKE) -B cpp/build-static -DBUILD_SHARED_LIBS=OFF
	cmake --build cpp/build-static
	CAAN_CPP_BUILD=cpp/build-static $(BIN)/pytest tests/cpp/test_installed.py -k 'program or command'

fuzz-cpp: $(CPP_SETUP)  ## every file reader in C++, FUZZ_SECONDS each
	cpp/tools/install_packages.sh fuzz
	$(CPP_CHECKED) -B cpp/build-fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
	  -DCAAN_SANITIZE=fuzzer-no-link,address,undefined -DCAAN_BUILD_FUZZERS=ON
	cmake --build cpp/build-fuzz --target fuzz-manifest fuzz-vocabulary fuzz-npy fuzz-gallery
	for reader in manifest vocabulary npy gallery; do \
	  mkdir -p cpp/build-fuzz/found/$$reader && \
	  cpp/build-fuzz/fuzz/fuzz-$$reader -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 \
	    -artifact_prefix=cpp/build-fuzz/$$reader- cpp/build-fuzz/found/$$reader cpp/fuzz/corpus/$$reader || exit 1; \
	done

lint-cpp: $(CPP_SETUP)  ## clang-format and clang-tidy
	cpp/tools/install_packages.sh lint
	clang-format --dry-run --Werror $$(find $(CPP_ROOMS) -name '*.[ch]' -o -name '*.[ch]pp' ! -name unicode_tables.hpp)
	$(CPP_CMAKE) -B cpp/build-release -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
	printf '%s\n' cpp/src/*.cpp cpp/examples/*.cpp | xargs -P 2 -n 4 clang-tidy --quiet -p cpp/build-release

lint: $(INSTALLED)  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo >.venv/imports.log || { cat .venv/imports.log; exit 1; }
	$(BIN)/ruff format --check .
	$(BIN)/python tests/check_types.py

dist: $(NATIVE)  ## wheels and sdists of caan-deploy and caan-native, checked, in dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	cpp/tools/build_wheels.sh $(BIN)/python $(HIGHWAY_ROOT) dist
	if test -x $(BIN)/twine; then $(BIN)/twine check dist/*; fi
	CAAN_DIST=dist $(BIN)/pytest -q tests/test_distribution.py

test-gpu: $(INSTALLED)  ## on a machine with an NVIDIA GPU: its tests, then the bench, with results in docs/benchmarks/
	$(BIN)/caan doctor
	$(BIN)/pytest -m gpu
	$(BIN)/caan-bench --synthetic --json docs/benchmarks/$$(date +%F)-gpu-synthetic.json
	$(BIN)/python -m caan.bench.gpu_kernel

# Works without a virtual environment or a network: the machine's own Python finds the project by a link of its name.
gpu-record:  ## on a machine with an NVIDIA GPU: all GPU measurements in 8 minutes, into docs/benchmarks/
	mkdir -p .gpu-record && ln -sfn .. .gpu-record/caan
	PYTHONPATH="$(CURDIR)/.gpu-record$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m caan.bench.gpu_record \
	  --kit $(KIT) --output $(RECORD) $(if $(FLICKR8K),--data $(FLICKR8K)) $(RECORD_OPTIONS)

gpu-kit: $(INSTALLED)  ## what such a machine lacks, in gpu-kit/, at most KIT_MB=60 MiB
	$(BIN)/python -m caan.bench.gpu_record.make_kit $(KIT) --megabytes $(KIT_MB) $(if $(FLICKR8K),--data $(FLICKR8K)) $(KIT_OPTIONS)

bench: $(INSTALLED) native-if-possible  ## speed at the paper's size, without a trained model
	$(BIN)/caan-bench --synthetic --retrieval

bench-cpp: $(NATIVE) $(CPP_SETUP)  ## the C++ runtime against Python's: pairs per second, opening, memory
	$(CPP_CMAKE) -B cpp/build-release -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
	cmake --build cpp/build-release --target caan-bench-cpp
	$(BIN)/python cpp/bench/bench.py cpp/build-release/caan-bench-cpp

bench-memory: $(INSTALLED)  ## memory of searching 25,000 captions in 5,000 images, 125 million pairs: half an hour
	$(BIN)/python -m caan.bench.memory

# A million: IMAGES=1000000. Interrupted, it resumes; all of it is kept in .bench-large, ignored by git.
bench-large: $(INSTALLED) native-if-possible  ## galleries of 10,000 and 100,000 drawn scenes: recall, time, memory, disk
	$(BIN)/python -m caan.bench.large --images $(IMAGES) --demo $(DEMO)

clean:
	rm -rf .venv dist site $(DEMO) caan_deploy.egg-info cpp/build-* .gpu-record .bench-large $(KIT)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "caan needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 4; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip  # --group: since 25.1
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,export,rtx,demo,plot]' --group dev
	touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group docs
	touch $@

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[cpu,export,engine,rtx]'
	touch $@

$(NATIVE): $(INSTALLED) constraints.txt cpp/tools/install_native.sh cpp/tools/get_highway.sh \
  $(wildcard cpp/kernels/*.* cpp/python/*.* cpp/python/caan_native/*.py*)
	cpp/tools/install_native.sh $(BIN)/python $(HIGHWAY_ROOT)
	touch $@

$(CPP_SETUP): $(INSTALLED) cpp/tools/install_packages.sh cpp/tools/get_onnxruntime.sh cpp/tools/get_highway.sh
	cpp/tools/install_packages.sh build
	test -d $(ONNXRUNTIME_ROOT)/include || cpp/tools/get_onnxruntime.sh $(ONNXRUNTIME_ROOT) $(BIN)/python
	pkg-config --atleast-version=1.2 libhwy || test -d $(HIGHWAY_ROOT)/include || cpp/tools/get_highway.sh $(HIGHWAY_ROOT)
	touch $@

$(CPP_DATA)/expected.json: $(INSTALLED) cpp/tests/make_data.py _checksum.py
	$(BIN)/python cpp/tests/make_data.py $(CPP_DATA)
