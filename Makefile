# make demo [SOURCE=video, image, folder, bag or camera index]    make test [PYTEST_ARGS=...]    make lint    make docs
# make test-matrix [ROWS="humble 3.13"]    make clean
# Everything is installed into .venv by PYTHON (3.10 to 3.13), once; the files .venv/.* remember what is done.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check install

.PHONY: demo test test-matrix lint docs clean

demo: .venv/.package
	.venv/bin/python -m probpose_ros.demo $(if $(SOURCE),--source "$(SOURCE)")

test: .venv/.test
	.venv/bin/python -m pytest $(PYTEST_ARGS)

# The run time without torch, in environments of their own (.venv-*): Python 3.10 to 3.13, the NumPy and OpenCV of Humble
# and Jazzy, and today's.
test-matrix:
	$(PYTHON) test/matrix.py $(ROWS) $(if $(PYTEST_ARGS),-- $(PYTEST_ARGS))

lint: .venv/.test
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

docs: .venv/.docs
	.venv/bin/python -m zensical build --strict
	@echo "read out/site/index.html"

clean:
	rm -rf .venv .venv-* .colcon

.venv/.requirements: requirements/demo.txt requirements/ros.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13) and \
		"Python %d.%d: must be 3.10 to 3.13; name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements/demo.txt -r requirements/ros.txt
	touch $@

.venv/.messages: .venv/.requirements probpose_msgs/package.xml probpose_msgs/CMakeLists.txt $(wildcard probpose_msgs/msg/*)
	.venv/bin/python probpose_msgs/build_with_wheels.py
	touch $@

.venv/.package: .venv/.messages setup.py setup.cfg
	$(PIP) --no-build-isolation --no-deps --editable .
	touch $@

.venv/.docs: requirements/docs.txt .venv/.package
	$(PIP) -r requirements/docs.txt
	touch $@

# The tests build the site, too.
.venv/.test: requirements/test.txt .venv/.docs
	$(PIP) -r requirements/test.txt
	touch $@
