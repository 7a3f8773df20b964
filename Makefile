# Each target is one line that calls scripts/.   make demo | make test | make validate ENV=staging ARGS=--quick
ENV ?= production
ARGS ?=
.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos bench check sandbox-up sandbox-down validate backup migrate verify rollback chain

help:
	@sed -n 's/^## //p' Makefile

## setup         what demo and test need: binaries of the tools, and of private servers in a cache folder
setup:
	@scripts/setup.sh
## demo          the main job on a private server that it brings up by itself
demo:
	@scripts/demo.sh
## test          every test, on private servers
test:
	@scripts/test.sh
## chaos         200 runs that are struck at seeded moments, and the runs after them; test has 30 of them
chaos:
	@scripts/chaos.sh
## bench         measurements, as ratios beside peers in the same run; ARGS=race|growth|field|checks|backup|incremental|memory for one of them
bench:
	@scripts/bench.sh $(ARGS)
## check         formatting, lints, docs: what CI checks beside the tests
check:
	@scripts/check.sh
## sandbox-up    a private server to try things on;   sandbox-down ends it
sandbox-up:
	@scripts/sandbox.sh up
sandbox-down:
	@scripts/sandbox.sh down
## validate, backup, migrate, verify, rollback   the flow, step by step, with ENV= and ARGS=;   chain: the first four
validate:
	@scripts/pre-migration-validation.sh --environment=$(ENV) $(ARGS)
backup:
	@scripts/backup-rollback-manager.sh backup pre_migration full --environment=$(ENV) $(ARGS)
migrate:
	@scripts/migration-runner.sh --environment=$(ENV) $(ARGS)
verify:
	@scripts/post-migration-validation.sh --environment=$(ENV) $(ARGS)
rollback:
	@scripts/backup-rollback-manager.sh restore pre_migration --environment=$(ENV) $(ARGS)
chain: validate backup migrate verify
