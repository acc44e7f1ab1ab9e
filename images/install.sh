#!/bin/sh
# Installs one compiled requirements file into /opt/venv, checks it, and takes out what no server reads.
set -eu
pip() { /opt/tools/bin/pip --python /opt/venv/bin/python --disable-pip-version-check "$@"; }

pip install --quiet --require-hashes --requirement "$1"
pip check
# Named by packages that need them to build or to report, not to run.
pip uninstall -qq --yes setuptools openvino-telemetry
site=$(/opt/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')
# Tests, C headers, and what only compilers and type checkers read. torch compiles with its headers while it serves.
find "$site" -type d \( -name tests -o -name test -o -name include \) -not -path "$site/torch/*" -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyx' -o -name '*.h' -o -name '*.hpp' \) \
  -not -path "$site/torch/*" -delete
