# Each target is one recipe that calls scripts/.  make demo | make test | make validate ENV=staging ARGS=--quick
ARGS ?=
# Only an ENV that stands on make's command line counts: shells have a variable of that name for a file of theirs. Without it the
# tools read ENVIRONMENT.
environment :=
ifeq ($(origin ENV),command line)
environment := --environment=$(ENV)
endif
pre_validate := scripts/pre-migration-validation.sh $(environment) $(ARGS)
backup := scripts/backup-rollback-manager.sh backup pre_migration full $(environment) $(ARGS)
migration := scripts/migration-runner.sh $(environment) $(ARGS)
post_validate := scripts/post-migration-validation.sh $(environment) $(ARGS)
.DEFAULT_GOAL := help
# One step after the other, with -j too: `make -j backup migrate` must not migrate beside its own backup.
.NOTPARALLEL:
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
## validate, backup, migrate, verify, rollback   the flow, step by step, with ENV=staging and ARGS=--verbose; without ENV as the
##               variable ENVIRONMENT says, else production.   chain: the first four, up to the first that fails
validate:
	@$(pre_validate)
backup:
	@$(backup)
migrate:
	@$(migration)
verify:
	@$(post_validate)
rollback:
	@scripts/backup-rollback-manager.sh restore pre_migration $(environment) $(ARGS)
# One recipe, so that neither -k nor -i goes on after a failure.
chain:
	@$(pre_validate) && $(backup) && $(migration) && $(post_validate)
