# `make` alone prints what there is. `make test` needs nothing but Go.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -X main.version=$(VERSION)
TAGS     := disable_grpc_modules
TESTFLAGS ?=
FUZZTIME ?= 30s
SOAK     ?= $(or $(SPILLWAY_SOAK),30m)
FUZZJOBS ?= 1
LINT     := bin/golangci-lint

# Servers that tests start by themselves where they find them: redis-server (from the system), and what `make services` brings.
SERVICES := bin/services
export PATH := $(CURDIR)/$(SERVICES):$(CURDIR)/$(SERVICES)/node_modules/.bin:$(CURDIR)/$(SERVICES)/python/bin:$(PATH)

.DEFAULT_GOAL := help

##@ Build

.PHONY: build
build: ## bin/spillway, the one static binary
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o bin/spillway ./cmd/spillway

.PHONY: demo
demo: ## a fake FHIR server, the gateway before it, one export through it
	$(GO) run -tags $(TAGS) ./cmd/spillway demo

##@ Check

.PHONY: test
test: ## unit and component tests; only Go is needed, what else is found is used
	$(GO) test -tags $(TAGS) $(TESTFLAGS) ./...

.PHONY: race
race: ## the same under the race detector
	$(GO) test -tags $(TAGS) -race ./...

.PHONY: lint
lint: $(LINT) ## go vet and golangci-lint, with the import rules of .golangci.yml
	$(GO) vet -tags e2e,$(TAGS) ./...
	$(LINT) run

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s), FUZZJOBS (1) at a time
	GO='$(GO)' .ci/fuzz '$(FUZZTIME)' '$(FUZZJOBS)'

.PHONY: e2e
e2e: ## the compiled binary against a real HAPI FHIR server (needs Java and Maven)
	$(GO) test -tags e2e,$(TAGS) -count=1 -timeout 30m -v ./test/e2e/...

.PHONY: chaos
chaos: ## many processes that are killed, frozen and cut off (needs redis-server and versitygw)
	$(GO) test -tags e2e,$(TAGS) -count=1 -timeout 30m -v ./test/chaos/...

.PHONY: soak
soak: ## exports that are broken at each step, and under 50 writes a second, for SPILLWAY_SOAK (30m)
	SPILLWAY_SOAK=$(SOAK) $(GO) test -tags $(TAGS) -count=1 -timeout 24h -parallel 12 -v ./test/soak
	SPILLWAY_SOAK=$(SOAK) $(GO) test -tags $(TAGS) -count=1 -timeout 24h -run TestChain -v ./cmd/spillway
	SPILLWAY_SOAK=$(SOAK) $(GO) test -tags $(TAGS) -count=1 -timeout 24h -run TestLargeCohort -v ./jobs/export

.PHONY: conformance
conformance: build ## public bulk clients and suites against the gateway before HAPI (Python, Node.js)
	test/conformance/run

.PHONY: bench
bench: ## Go benchmarks, and test/bench where it exists
	$(GO) test -run '^$$' -tags $(TAGS) -bench . -benchmem ./...
	@if [ -x test/bench/run ]; then test/bench/run; fi

##@ House

.PHONY: services
services: ## storage servers of three kinds and a bulk client of others for the tests, into bin/services (needs Node.js and Python)
	GOBIN=$(CURDIR)/$(SERVICES) $(GO) install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	GOBIN=$(CURDIR)/$(SERVICES) $(GO) install github.com/fsouza/fake-gcs-server@v1.56.1
	npm install --prefix $(SERVICES) --no-audit --no-fund --silent azurite@3.37.0
	python3 -m venv $(SERVICES)/python
	$(SERVICES)/python/bin/pip install --quiet --disable-pip-version-check smart-fetch==1.0.3

.PHONY: clean
clean: ## remove what was built, here and below test/
	rm -rf bin test/hapi/target

.PHONY: help
help: ## this text
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(LINT): .ci/tools/go.mod .ci/tools/go.sum
	$(GO) build -modfile=.ci/tools/go.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
