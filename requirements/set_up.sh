#!/usr/bin/env bash
# set_up.sh VENV LIST CONDITION PYTHON...: an environment in VENV with the packages of LIST and no-deps.txt, and this checkout in it.
# Takes the first PYTHON for which CONDITION (Python, with sys imported) holds and that has venv; exit 3 where there is none.
# A VENV that is there already is brought up to LIST.
set -euo pipefail
venv=$1 list=$2 condition=$3
shift 3

if ! "$venv/bin/python" -c "import sys, pip; sys.exit(not ($condition))" 2>/dev/null; then
  found=
  for python in "$@"; do
    if "$python" -c "import sys, venv, ensurepip; sys.exit(not ($condition))" >/dev/null 2>&1; then
      found=$python
      break
    fi
  done
  if [ -z "$found" ]; then
    echo "No Python with its venv module for which $condition: tried $*." >&2
    exit 3
  fi
  echo "Setting up $venv with $("$found" --version): a minute or two, the first time only ..."
  "$found" -m venv --clear "$venv"
fi
# No build isolation: the build backend is in LIST too, so nothing is fetched that LIST does not name.
"$venv/bin/python" -m pip install -qq --disable-pip-version-check -r "$list"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps -r requirements/no-deps.txt
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
