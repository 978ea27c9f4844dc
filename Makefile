# make run: a node in the foreground.  make test: what must hold, under ten minutes.
# make install (as root): the service, under PREFIX.  make uninstall: keeps configuration and state.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ARGS   ?=

PREFIX  ?= /usr/local
DESTDIR ?=
LIBDIR  := $(PREFIX)/lib
SERVICE_VENV := $(LIBDIR)/p2pd
NEW_VENV := $(DESTDIR)$(SERVICE_VENV).new
UNITS   := p2pd.service p2pd@.service
# The service runs as another user and sees no home directory: an interpreter in one won't do.
SYSTEM_PYTHON ?= $(shell PATH=/usr/local/bin:/usr/bin:/bin command -v $(notdir $(PYTHON)))

.PHONY: run world trials pauses kills soak hosts fuzz test lint types unit test-install bench clean install uninstall

run: $(READY)
	$(BIN)/p2pd $(ARGS)

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# A fresh clone, its environment from the package registry, a node in it.
test-install: $(READY)
	$(BIN)/python -m pytest -m slow tests/e2e/test_install.py

# A hundred small worlds with all faults, by hand: a quarter of an hour.
world: $(READY)
	$(BIN)/python -m p2pd.simulation faulty --seeds 100

# Killed halves in hundreds of seeds, hours of partition and churn, large worlds: more than a day.
trials: $(READY)
	$(BIN)/python -m pytest -m slow tests/world

# Twenty daemons that fall silent for a while, or for good: a quarter of an hour.
pauses: $(READY)
	$(BIN)/python -m pytest -m slow tests/e2e/test_pauses.py

# Daemons killed a hundred times amid puts: what was acknowledged is there. Ten minutes.
kills: $(READY)
	$(BIN)/python -m pytest -m slow tests/e2e/test_acknowledged.py

# A fuzzer at each of what takes bytes from strangers: ten minutes each, or SECONDS=.
SECONDS ?= 600
HARNESSES := codec frames handshake beacons records control_lines configuration
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	for each in $(HARNESSES); do $(BIN)/python -m tests.fuzz $$each --seconds $(SECONDS) || exit 1; done

# Two LANs whose router is away for a minute: a minute and a half.
hosts: $(READY)
	$(BIN)/python -m pytest -m slow tests/e2e/test_hosts.py

# Stopped for a minute; then twenty daemons for P2PD_SOAK_SECONDS (180): killed, paused, written to.
soak: $(READY)
	$(BIN)/python -m pytest -m slow tests/e2e/test_faults.py tests/e2e/test_soak.py

bench: $(READY)
	$(BIN)/python -m bench

$(READY): pyproject.toml
	@echo 'Installing p2pd into $(VENV), once: half a minute or so' >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

# Made beside the old one, which stays whole until the new one is, for what runs from it and where
# this fails. pip writes the place into the scripts: that becomes the one where they will be.
install:
	@test -n "$(SYSTEM_PYTHON)" || { echo >&2 "make install: no $(notdir $(PYTHON)) in /usr/local/bin or /usr/bin: install it, or name one with SYSTEM_PYTHON="; exit 1; }
	rm -rf build
	$(SYSTEM_PYTHON) -m venv --clear $(NEW_VENV)
	$(NEW_VENV)/bin/python -m pip install --quiet --disable-pip-version-check .
	rm -rf build
	grep -rlIF '$(NEW_VENV)' $(NEW_VENV)/bin $(NEW_VENV)/pyvenv.cfg | xargs sed -i 's|$(NEW_VENV)|$(SERVICE_VENV)|g'
	chmod -R go+rX $(NEW_VENV)
	rm -rf $(DESTDIR)$(SERVICE_VENV)
	mv $(NEW_VENV) $(DESTDIR)$(SERVICE_VENV)
	install -d $(DESTDIR)$(PREFIX)/bin
	ln -sf $(SERVICE_VENV)/bin/p2pd $(SERVICE_VENV)/bin/p2pctl $(DESTDIR)$(PREFIX)/bin/
	install -D -m 644 config/p2pd.toml $(DESTDIR)$(PREFIX)/share/p2pd/p2pd.toml
	test -e $(DESTDIR)/etc/p2pd/p2pd.toml || install -D -m 644 config/p2pd.toml $(DESTDIR)/etc/p2pd/p2pd.toml
	install -D -m 644 -t $(DESTDIR)$(LIBDIR)/systemd/system $(addprefix systemd/,$(UNITS))
	install -D -m 644 systemd/p2pd.sysusers.conf $(DESTDIR)$(LIBDIR)/sysusers.d/p2pd.conf
	install -D -m 644 systemd/p2pd.tmpfiles.conf $(DESTDIR)$(LIBDIR)/tmpfiles.d/p2pd.conf
	sed -i 's|/usr/local/|$(PREFIX)/|' $(addprefix $(DESTDIR)$(LIBDIR)/,$(addprefix systemd/system/,$(UNITS)) tmpfiles.d/p2pd.conf)
ifeq ($(DESTDIR),)
	@if command -v systemd-sysusers >/dev/null; then systemd-sysusers $(LIBDIR)/sysusers.d/p2pd.conf; fi
	@if test -d /run/systemd/system; then systemctl daemon-reload; fi
	@echo "Installed. Start it with: systemctl enable --now p2pd   (after an upgrade: systemctl try-restart p2pd 'p2pd@*')"
endif

uninstall:
ifeq ($(DESTDIR),)
	@if test -d /run/systemd/system; then systemctl disable --now p2pd.service; systemctl stop 'p2pd@*.service'; fi || true
	rm -f /etc/systemd/system/*.wants/p2pd@*.service
endif
	rm -rf $(DESTDIR)$(SERVICE_VENV) $(NEW_VENV) $(DESTDIR)$(PREFIX)/share/p2pd
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,p2pd p2pctl)
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/,$(addprefix systemd/system/,$(UNITS)) sysusers.d/p2pd.conf tmpfiles.d/p2pd.conf)
ifeq ($(DESTDIR),)
	@if test -d /run/systemd/system; then systemctl daemon-reload; fi
endif
	@echo "Uninstalled. Left in place: /etc/p2pd, /var/lib/p2pd and the user p2pd."
