# Likeness. `make` prints what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
# Scaled JPEG decoding through libjpeg-turbo where its header is there; see docs/adr/0003.
GOTAGS  = $(shell pkg-config --exists libjpeg 2>/dev/null && echo turbojpeg)
TAGS    = $(if $(GOTAGS),-tags $(GOTAGS))
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Weights that are not built in, for measurements: what the caller says, else those beside the checkout.
bench bench-% gallery: export LIKENESS_MODELS_DIR ?= $(abspath $(wildcard ../shared/models))

.PHONY: help
help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps:
	@scripts/deps.sh

.PHONY: build
build: deps ## build bin/server and bin/likeness
	$(GO) build $(TAGS) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/server ./cmd/likeness

.PHONY: runtime
runtime: build
	@scripts/runtime.sh bin/likeness

.PHONY: run
run: build runtime ## run a server on 127.0.0.1:8080 with the embedded store, without keys
	LIKENESS_AUTH=off bin/server

.PHONY: postgres
postgres: ## bring up a private Postgres with pgvector (in data/postgres) and print its URL
	@scripts/postgres.sh start data/postgres

.PHONY: postgres-stop
postgres-stop: ## stop that Postgres; its data stays
	@scripts/postgres.sh stop data/postgres

.PHONY: test
test: build runtime ## everything that CI checks: vet, formatting, tests with -race, short fuzzing
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'gofmt would change these'; exit 1; }
	$(GO) vet $(TAGS) ./...
	@scripts/npm.sh || echo '*** What needs npm, the check of a TypeScript client, is SKIPPED here, and fails in CI.' >&2
	@bin=$${LIKENESS_TEST_PG_BIN:-$$(scripts/postgres.sh install)} && [ "$$bin" != docker ] && [ "$$bin" != none ] || { bin=none; \
	  echo '*** No PostgreSQL with pgvector on this machine: what needs one is SKIPPED here, and fails in CI.' >&2; }; \
	echo "$(GO) test $(TAGS) -race -timeout 15m ./... (PostgreSQL: $$bin)"; \
	LIKENESS_TEST_PG_BIN=$$bin $(GO) test $(TAGS) -race -timeout 15m ./...
	@GOTAGS=$(GOTAGS) scripts/fuzz.sh

KILLS ?= 100
.PHONY: kills
kills: ## kill -9 stores and servers at work, KILLS times each, and look for what they acknowledged (KILLS=100)
	@bin=$${LIKENESS_TEST_PG_BIN:-$$(scripts/postgres.sh install)} && \
	LIKENESS_TEST_KILLS=$(KILLS) LIKENESS_TEST_PG_BIN=$$bin $(GO) test $(TAGS) -count=1 -p 1 -v -timeout 120m -run '^TestKill$$' \
	  ./pkg/store/sqlite ./pkg/store/postgres ./pkg/jobs

.PHONY: bench
bench: build runtime ## measure speed, memory and search; see bench/README.md
	$(GO) run $(TAGS) ./bench

.PHONY: bench-search
bench-search: build runtime ## measure the search engines over a Postgres of its own; takes hours (SEARCH="--sizes 100k --dims 256")
	$(GO) run $(TAGS) ./bench --only engines --report out/bench-search.md $(SEARCH)

.PHONY: bench-style
bench-style: build runtime ## measure style transfer, against torch where it is installed; see bench/README.md (STYLE="--style-sizes 256")
	$(GO) run $(TAGS) ./bench --only style --report out/bench-style.md $(STYLE)

.PHONY: bench-train
bench-train: build runtime ## measure training, against torch where it is installed; see bench/README.md (TRAIN="--train-batch 32")
	$(GO) run $(TAGS) ./bench --only train --report out/bench-train.md $(TRAIN)

.PHONY: bench-detect
bench-detect: build runtime ## measure the built-in detector against YuNet on unseen people; see bench/README.md (DETECT="--scenes 20")
	$(GO) run $(TAGS) ./bench --only detect --report out/bench-detect.md $(DETECT)

.PHONY: gallery
gallery: build runtime ## paint docs/gallery again with bin/likeness; takes minutes
	$(GO) run ./docs/gallery bin/likeness docs/gallery

.PHONY: lint
lint: ## golangci-lint with .golangci.yaml
	$(TOOL) golangci-lint run ./...

.PHONY: generate
generate: ## write api/, pkg/client and pkg/grad/onnxpb again (protoc is Debian's protobuf-compiler)
	$(GO) generate ./...

.PHONY: verify
verify: generate ## fail when generated code or go.mod is not what is committed
	$(GO) mod tidy
	git diff --exit-code -- api pkg/client pkg/grad/onnxpb go.mod go.sum

.PHONY: clean
clean: ## remove what was built (never data/)
	rm -rf bin out
