# What the builds of the layer and of the functions share. `sam build` calls their Makefiles, in their own folders
# (build_in_source in samconfig.toml), with ARTIFACTS_DIR set. No Docker.
ROOT := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))/..)
PYTHON ?= $(ROOT)/.venv/bin/python

# What the functions run on, as template.yaml says.
RUNTIME_VERSION := $(shell sed -n 's/^ *Runtime: python//p' $(ROOT)/template.yaml | head -n 1)
# SAM does not tell a Makefile the architecture: it stands in samconfig.toml, where `sam deploy` reads it too.
ARCHITECTURE ?= $(shell sed -n 's/^parameter_overrides.*Architecture=\([a-z0-9_]*\).*/\1/p' $(ROOT)/samconfig.toml)
PROCESSOR := $(patsubst aarch64,arm64,$(ARCHITECTURE))

# LOCAL_BUILD=1: for this machine's interpreter and system, to run in an emulator; not to be deployed.
LOCAL_BUILD ?=
BUILDER_VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.SILENT:

.PHONY: check-builder
check-builder:
	test -n "$(ARTIFACTS_DIR)" || { echo "ARTIFACTS_DIR is not set: run 'make build' in $(ROOT)"; exit 1; }
	test -x "$(PYTHON)" || { echo "There is no $(PYTHON): run 'make setup' in $(ROOT)"; exit 1; }
	case "$(PROCESSOR)" in x86_64|arm64) ;; *) \
	  echo "Architecture is '$(ARCHITECTURE)' in samconfig.toml, not x86_64 or arm64"; exit 1;; esac
	test "$(BUILDER_VERSION)" = "$(RUNTIME_VERSION)" || test -n "$(LOCAL_BUILD)" || { \
	  echo "The functions run on Python $(RUNTIME_VERSION); $(PYTHON) is $(BUILDER_VERSION), whose byte-code they cannot"; \
	  echo "read. Install Python $(RUNTIME_VERSION), remove .venv and run 'make setup' again; or build for this machine only,"; \
	  echo "with LOCAL_BUILD=1."; exit 1; }

# $(call copy_package,folder,target): without caches, with everything else (migrations are .sql).
copy_package = mkdir -p "$(2)" && tar -c -f - --exclude __pycache__ --exclude '*.pyc' $(1) | tar -x -f - -C "$(2)"

# $(call compile,folder,path in Lambda): byte-code that is never checked against its source, since both are read-only;
# tracebacks show the paths as they are in Lambda.
compile = "$(PYTHON)" -m compileall -q -f -j 0 --invalidation-mode unchecked-hash -s "$(1)" -p "$(2)" "$(1)"
