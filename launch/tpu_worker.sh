#!/usr/bin/env bash
# What tpu_pod.sh runs on each worker of a slice, in the checkout that it has put there. The run is not
# a child of the ssh session: a laptop that sleeps does not end it.
#   install EXTRAS   the versions of constraints.txt into ~/lafg_jax/venv, unless they are there
#   start WORD...    begins `python -m lafg_jax.main WORD...`; does nothing while that one runs
#   follow LINES     prints the log from there on until the run ends; exits with its code
#   last             the last lines of the log
#   stop             SIGTERM, and waits until the run has saved and left
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

HOME_OF_RUNS=$HOME/lafg_jax
VENV=$HOME_OF_RUNS/venv
RUN=$HOME_OF_RUNS/run
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
mkdir -p "$RUN"
touch "$RUN/lock"

fail() {
  echo "error: $(hostname): $*" >&2
  exit 2
}

# The lock is held by the run and what it started, whatever has become of their pids.
at_work() {
  ! flock -n "$RUN/lock" true
}

make_environment() {
  local name
  for name in python3.11 python3.12 python3.13 python3; do
    if "$name" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      "$name" -m venv --clear "$VENV"
      return
    fi
  done
  # TPU images of Ubuntu 22.04 have Python 3.10.
  python3 -m pip install --quiet --user uv || fail "no Python 3.11, and uv, which brings one, cannot be installed"
  "$HOME/.local/bin/uv" venv --quiet --clear --seed --python 3.11 "$VENV"
}

install() {
  local extras=$1 key pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt)
  key=$(cat setup.py constraints.txt - <<< "$extras" | sha256sum)
  if [[ -f $VENV/installed && $(< "$VENV/installed") = "$key" ]]; then return; fi
  make_environment
  if [[ ,$extras, = *,torch,* ]]; then
    "${pip[@]}" --no-deps --index-url "$TORCH_INDEX" torch
  fi
  "${pip[@]}" -e ".[$extras]"
  echo "$key" > "$VENV/installed"
}

start() {
  local command
  command=$(printf '%q ' "$PWD" "$@")
  exec 9>> "$RUN/lock"
  if ! flock -n 9; then
    [[ $(< "$RUN/command") = "$command" ]] || fail "another run is at work here; tpu_pod.sh --stop ends it"
    return
  fi
  echo "$command" > "$RUN/command"
  rm -f "$RUN/code"
  if [[ -f $RUN/log ]]; then mv "$RUN/log" "$RUN/log.before"; fi
  setsid bash launch/tpu_worker.sh supervise "$@" > "$RUN/log" 2>&1 < /dev/null &
}

# Leads a process group of its own. SIGTERM reaches the whole of it (`stop`, a machine that shuts down), and
# main then exits with 75: the run has saved and is not over. So it is where main did not listen yet.
supervise() {
  local code=0 told=""
  echo $$ > "$RUN/group"
  trap 'told=1' TERM
  export PYTHONUNBUFFERED=1
  "$VENV/bin/python" -m lafg_jax.main "$@" || code=$?
  if [[ -n $told && $code = 143 ]]; then code=75; fi
  echo "$code" > "$RUN/code"
}

follow() {
  local waiter
  flock "$RUN/lock" true &
  waiter=$!
  tail -n "$1" -s 0.2 -f --pid="$waiter" "$RUN/log"
  wait "$waiter"
  # Killed, or the machine was: there was nobody to write it.
  if [[ ! -f $RUN/code ]]; then exit 137; fi
  exit "$(< "$RUN/code")"
}

stop() {
  at_work || return 0
  kill -TERM -- "-$(< "$RUN/group")"
  flock -w 600 "$RUN/lock" true || fail "the run has not left in ten minutes"
}

last() {
  echo "$(hostname):"
  tail -n 5 "$RUN/log"
}

"$@"
