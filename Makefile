# The two commands that matter: `make plug` and `make test`. The others are what these are made of.

export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin
export PLUG_DIR ?= $(CURDIR)/.plug
# Loop devices, owners and containers of the tests need root.
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo -H env PATH=$(PATH))
# What `make plug` plays, with any options of ansible-playbook.
PLAY := site.yml
# FAST=1 keeps one Python running on the plug instead of starting one for each task.
ifdef FAST
export ANSIBLE_STRATEGY := mitogen_linear
export ANSIBLE_STRATEGY_PLUGINS := $(wildcard .venv/lib/python3*/site-packages/ansible_mitogen/plugins/strategy)
endif
# Python without the ending .py.
SCRIPTS := files/flashback/bin/flashback
UV := .uv/bin/uv
UV_VERSION := 0.13.9

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
	  printf '  make %-12s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: .venv/ready ## Install what the workbench needs (Debian packages, Python environment)

.venv/ready: uv.lock pyproject.toml files/workbench/install-debian-packages
	@files/workbench/install-debian-packages
	@[ -x $(UV) ] || { python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv==$(UV_VERSION); } || { \
	  echo "make setup: uv could not be installed from PyPI. Is there a network?" >&2; exit 1; }
	@$(UV) sync --locked --quiet --no-progress || { \
	  echo "make setup: uv could not install the Python packages of uv.lock. Its own words are above." >&2; exit 1; }
	@touch $@

.PHONY: plug
plug: setup ## Build the virtual plug and make its first backup
	@ansible-playbook $(PLAY)

# BOARD is the name of a file in files/boards; STICKS is where the images go.
BOARDS := $(patsubst files/boards/%.yml,%,$(shell grep -l "^stick_boot: kirkwood" files/boards/*.yml))
.PHONY: stick
stick: setup ## Make the image of a stick: make stick BOARD=pogoplug_v4
	@case " $(BOARDS) " in *" $(BOARD) "*) ;; *) \
	  echo "make stick: BOARD=$(BOARD) is no board of which a stick can be made. There are: $(BOARDS)" >&2; exit 1 ;; esac
	@files/workbench/install-debian-packages arm
	@arch-test armel >/dev/null || $(AS_ROOT) update-binfmts --enable qemu-arm
	@BOARD=$(BOARD) ansible-playbook playbooks/flash.yml -i inventories/stick

.PHONY: status
status: setup ## Show how the virtual plug and its backups are
	@workbench $(PLUG_DIR) status && ssh -F $(PLUG_DIR)/ssh_config plug flashback status

.PHONY: ssh
ssh: setup ## Log in to the virtual plug
	@workbench $(PLUG_DIR) status && ssh -F $(PLUG_DIR)/ssh_config plug

.PHONY: stop
stop: setup ## Switch the virtual plug and its sample client off
	@workbench $(PLUG_DIR) stop

.PHONY: clean
clean: setup ## Throw the virtual plug away, with its backups
	@workbench $(PLUG_DIR) clean

.PHONY: role-readmes
role-readmes: setup ## Write the README of each role from its argument spec
	@python -m workbench.role_readme roles

.PHONY: test
test: lint test-engine test-project test-roles test-plug ## Run all tests

.PHONY: lint
lint: setup ## Check the style of YAML, Ansible, Python and shell
	@yamllint --strict .
	@ansible-lint --profile production --offline --strict
	@ruff check . $(SCRIPTS)
	@ruff format --check . $(SCRIPTS)
	@mypy files/flashback/src files/workbench files/ansible tests molecule bench
	@shellcheck files/workbench/install-debian-packages molecule/default/files/make-home .ci/run \
	  molecule/default/files/make-arch files/workbench/src/workbench/make-uboot-files \
	  roles/base/files/usr/local/sbin/keep-journal-tail roles/backup_disk/files/usr/local/sbin/ask-backup-disk

.PHONY: test-engine
test-engine: setup ## Test the backup engine
	@$(AS_ROOT) pytest -n 2 --dist worksteal files/flashback/tests

.PHONY: bench-engine
bench-engine: setup ## Measure the engine's own limits (memory, idle work, overhead)
	@$(AS_ROOT) python files/flashback/bench/limits.py

# SIZE=small is a quick look; BENCH=... takes any options of `python -m bench run`.
SIZE := full
BENCH :=
.PHONY: bench
bench: setup ## Measure the engine beside other backup programs
	@files/workbench/install-debian-packages bench
	@$(AS_ROOT) python -m bench run --size $(SIZE) $(BENCH)
	@python -m bench report --size $(SIZE)

.PHONY: bench-ansible
bench-ansible: setup ## Time a run that changes nothing on the virtual plug, with and without ansible.cfg
	@python -m bench.no_change

.PHONY: test-project
test-project: setup ## Test the workbench's tools and what is true of all roles
	@pytest files/workbench/tests tests/project bench/tests

.PHONY: test-roles
test-roles: setup ## Test the roles in two containers, on Debian 12 and on 13
	@$(AS_ROOT) molecule test --all

.PHONY: test-arm
test-arm: setup ## Test the stick of a Pogoplug, built by emulation (apart from `make test`: it takes long)
	@$(AS_ROOT) pytest tests/arm

.PHONY: test-plug
test-plug: setup ## Test a virtual plug from end to end
	@pytest tests/plug
