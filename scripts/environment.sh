# Sourced by ./try and ./test: makes .venv, or brings it up to date, and changes nothing outside this directory.
#
#   environment [EXTRAS]     as in: environment '[test,docs]'
#
# PYTHON names the interpreter to use; without it the first of the usual names that is new enough is taken.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Operant needs Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python if it has another name" >&2
  return 1
}

environment() {
  local extras="${1:-}" python stamp wanted
  stamp=".venv/installed${extras//[^a-z]/-}"
  # the directory counts too: a virtual environment does not survive being moved
  wanted="$(cat pyproject.toml constraints.txt | cksum) $PWD"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  python="$(find_python)"
  echo "== installing into .venv (about two minutes the first time)"
  "$python" -m venv .venv || return 1
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras" || return 1
  echo "$wanted" > "$stamp"
}

export OPERANT_CACHE="${OPERANT_CACHE:-$PWD/.venv/compilations}"
