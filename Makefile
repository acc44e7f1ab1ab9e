# The same targets for people and for CI. `make help` lists them.
PYTHON ?= python3.11
TORCH_INDEX ?=
SECONDS ?= 120
VENV := .venv
BIN := $(VENV)/bin
BUILD ?= docker build
PUSH ?=
TARGETS ?= transformer predictor-cpu
REGISTRY ?= localhost
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
RELEASE ?= doggos
NAMESPACE ?= doggos
DEPLOY_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test soak test-manifests test-environments test-browser test-cluster screenshots images \
	artefacts deploy lint bench bench-smoke bench-peers promtool docs manifests requirements

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(VENV)/installed  ## make .venv (TORCH_INDEX=<url> takes torch from another wheel index)

$(VENV)/installed: requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements/dev.txt))
	$(BIN)/pip install --quiet -r requirements/dev.txt
	$(BIN)/pip check
	touch $@

demo: setup  ## build a small service, ask it about one picture (CLIP=, IMAGES= for your own)
	@$(BIN)/python -m demo

serve: setup  ## the same, and keep serving on 127.0.0.1:8080
	@$(BIN)/python -m demo --serve on

test: setup  ## every test that needs no cluster
	$(BIN)/python -m pytest

soak: setup  ## good and bad traffic for two minutes (SECONDS= for longer): nothing may grow
	$(BIN)/python -m tests.soak --seconds $(SECONDS)

test-environments: setup  ## install what each image installs, and serve with it (minutes, 300 MB of downloads)
	$(BIN)/python -m pytest -m environments

test-browser: setup  ## the page in a real browser (apt-get install chromium)
	$(BIN)/python -m pytest -m browser tests/browser

screenshots: setup  ## write the pictures of the page in docs/images
	SCREENSHOTS=docs/images $(BIN)/python -m pytest -m browser tests/browser/test_screenshots.py

test-manifests: setup  ## tests of the chart with helm, kubectl, kubeconform, and CRDS=<files of definitions>
	$(BIN)/python -m pytest tests/manifests

lint: setup  ## ruff and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## measure everything (some 160 minutes); bench-quick what the targets need (90 minutes), bench-NAME one of them
	for name in search decode model hop start overload profile pairs serve plots targets; do $(BIN)/python -m benchmarks.$$name || exit; done

bench-smoke: setup  ## that the benchmarks run and that answers agree; no timings
	$(BIN)/python -m benchmarks.smoke

bench-%: setup
	$(BIN)/python -m benchmarks.$*

PEERS := fastapi litserve bentoml mlserver kserve ray

bench-peers: $(PEERS:%=.bench/%/installed) .bench/search/installed  ## what our service is compared with, in .bench

.bench/torch/installed: benchmarks/peers/requirements/torch.txt
	$(PYTHON) -m venv .bench/torch
	.bench/torch/bin/pip install --quiet -r $<
	touch $@

# Seen from .venv, whose own numpy comes first.
.bench/search/installed: benchmarks/peers/requirements/search.txt
	$(PYTHON) -m venv .bench/search
	.bench/search/bin/pip install --quiet -r $<
	touch $@

# torch and transformers are there once, and every other environment sees them.
.bench/%/installed: benchmarks/peers/requirements/%.txt .bench/torch/installed
	$(PYTHON) -m venv .bench/$*
	echo $(CURDIR)/.bench/torch/lib/python*/site-packages > $$(echo .bench/$*/lib/python*/site-packages)/torch.pth
	.bench/$*/bin/pip install --quiet -r $<
	touch $@

test-cluster: setup  ## tests against the KServe cluster of KUBECONFIG (needs kubectl and helm; see tests/cluster)
	$(BIN)/python -m pytest tests/cluster -m cluster

images:  ## build the images of transformer and predictor-cpu (REGISTRY=, VERSION=, TARGETS=, PUSH="docker push")
	for target in $(TARGETS); do image=$(REGISTRY)/doggos-$$target:$(VERSION); \
		$(BUILD) --target $$target --tag $$image --build-arg VERSION=$(VERSION) . || exit; \
		$(if $(PUSH),$(PUSH) $$image || exit;) done

artefacts:  ## copy the folders MODEL= and INDEX= into the claim doggos-artefacts on the cluster (NAMESPACE=, REGISTRY=)
	@test -n "$(MODEL)$(INDEX)" || { echo "MODEL= or INDEX= is missing"; exit 2; }
	@kubectl get namespace $(NAMESPACE) >/dev/null 2>&1 || kubectl create namespace $(NAMESPACE)
	@sed 's#image: .*/\(.*\):.*#image: $(REGISTRY)/\1:$(VERSION)#' manifests/artefacts.yaml | kubectl -n $(NAMESPACE) apply -f -
	@set -e; trap 'kubectl -n $(NAMESPACE) delete pod doggos-artefacts --now' EXIT; trap 'exit 130' INT TERM; \
	inside() { kubectl -n $(NAMESPACE) exec doggos-artefacts -- "$$@"; }; \
	kubectl -n $(NAMESPACE) wait --for=condition=Ready pod/doggos-artefacts --timeout=5m; \
	for folder in $(MODEL) $(INDEX); do name=$$(basename $$folder); \
		if inside test -e /artefacts/$$name 2>/dev/null; then \
			echo "/artefacts/$$name is there already and may be served: copy a folder of another name"; exit 1; fi; \
		inside rm -rf /artefacts/.$$name.draft; \
		kubectl cp $$folder $(NAMESPACE)/doggos-artefacts:/artefacts/.$$name.draft; \
		inside mv /artefacts/.$$name.draft /artefacts/$$name; done; \
	inside ls /artefacts

deploy: setup  ## install or upgrade a release, roll it back when it fails (RELEASE=, NAMESPACE=, DEPLOY_FLAGS=)
	$(BIN)/python -m deploy $(RELEASE) --namespace $(NAMESPACE) $(DEPLOY_FLAGS)

COMPILE := uv pip compile --quiet --native-tls --python-version 3.11 --no-header --no-annotate --no-strip-markers
# torch pins its own exact versions of these, and a wheel of another index needs others or none.
OF_TORCH := triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

# As a dependency of nothing, because `go install` refuses the go.mod of Prometheus.
PROMTOOL := github.com/prometheus/prometheus/cmd/promtool
promtool: .tools/promtool  ## build .tools/promtool with Go: the unit tests of the alert rules need it

.tools/promtool:
	mkdir -p .tools/build
	cd .tools/build && { test -f go.mod || go mod init tools; } && go get $(PROMTOOL)@v0.307.3
	cd .tools/build && go build -ldflags="-s -w" -o ../promtool $(PROMTOOL)

docs: setup  ## write docs/configuration.md and helm/README.md
	$(BIN)/python -m docs.make_configuration
	$(BIN)/python -m docs.make_chart_readme

manifests: setup  ## write the generated files of manifests/ from the chart in helm/ (needs helm)
	$(BIN)/python -m docs.make_manifests

requirements:  ## compile requirements/*.txt from *.in (needs uv)
	cd requirements && $(COMPILE) $(OF_TORCH:%=--no-emit-package %) dev.in --output-file dev.txt
	! grep -E '^(nvidia-|cuda-|triton=)' requirements/dev.txt
	cd requirements && for name in transformer predictor predictor-cpu export; do \
		$(COMPILE) --generate-hashes --constraint dev.txt $$name.in --output-file $$name.txt || exit; done
