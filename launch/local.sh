#!/usr/bin/env bash
# Runs main as N processes on this machine.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

help() {
  cat << 'HELP'
usage: launch/local.sh --processes=N [OPTIONS] --config FILE [--workdir DIR] [--config.KEY=VALUE ...]

Runs `python -m lafg_jax.main` as N processes of one run, on this machine. What is not an option of
this script goes to each of them. Process 0 prints here, process I into LOGS/process-I.log. Ctrl-C and
SIGTERM are passed on: once saves and leaves (exit code 75: the same command goes on), twice leaves.
When one process fails, the others are ended, and its exit code is that of this script.

  --processes=N            how many
  --devices-per-process=K  K simulated CPU devices in each (for trying things out)
  --gpus-per-process=K     GPUs 0..K-1 to process 0, K..2K-1 to process 1, and so on
  --port=PORT              where the processes meet (default: a free port)
  --logs=LOGS              folder (default: a new one under /tmp, printed)
  --python=PYTHON          the interpreter (default: python)
  --dry-run                prints the commands and runs none
HELP
}

processes="" devices="" gpus="" port="" logs="" python=python rest=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --help | -h) help && exit 0 ;;
    --dry-run) DRY_RUN=1 ;;
    --processes=*) whole_number "$1" && processes=${1#*=} ;;
    --devices-per-process=*) whole_number "$1" && devices=${1#*=} ;;
    --gpus-per-process=*) whole_number "$1" && gpus=${1#*=} ;;
    --port=*) whole_number "$1" && port=${1#*=} ;;
    --logs=?*) logs=${1#*=} ;;
    --python=?*) python=${1#*=} ;;
    *) rest+=("$1") ;;
  esac
  shift
done
[[ -n $processes ]] || fail "pass --processes=N; see launch/local.sh --help"
[[ -z $devices || -z $gpus ]] || fail "--devices-per-process is for CPUs: leave out --gpus-per-process"
read_main_arguments ${rest[@]+"${rest[@]}"}

if [[ -n $DRY_RUN ]]; then
  port=${port:-PORT} logs=${logs:-LOGS}
else
  command -v "$python" > /dev/null || fail "--python=$python: no such program"
  if [[ -z $port ]]; then
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  fi
  logs=${logs:-$(mktemp -d /tmp/lafg_jax-local.XXXXXX)}
  mkdir -p "$logs" || fail "--logs=$logs cannot be made"
fi

pids=() codes=() failed="" stopped=""

# Into `command`: the words that start process $1.
command_of() {
  local environment=("PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}") first
  if [[ -n $devices ]]; then
    local flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
    environment+=("JAX_PLATFORMS=cpu" "XLA_FLAGS=$flags")
  elif [[ -n $gpus ]]; then
    first=$(($1 * gpus))
    environment+=("CUDA_VISIBLE_DEVICES=$(seq -s, "$first" $((first + gpus - 1)))")
  fi
  command=(env "${environment[@]}" "$python" -m lafg_jax.main "${rest[@]}"
    "--coordinator=127.0.0.1:$port" "--num_processes=$processes" "--process_id=$1")
}

# Sends a signal to every process that still runs; with '-' before the pid, to its children too.
send() {
  local i
  for i in "${!pids[@]}"; do
    if [[ -z ${codes[i]-} ]]; then kill "-$1" -- "${2-}${pids[i]}" 2> /dev/null || true; fi
  done
}

# shellcheck disable=SC2329 # by trap
pass_on() {
  echo "launch/local.sh: telling $processes processes to save and leave" >&2
  send TERM
}

start() {
  local i
  # A process group each: Ctrl-C must reach them through pass_on, once.
  set -m
  for ((i = 0; i < processes; i++)); do
    command_of "$i"
    if [[ -n $DRY_RUN ]]; then
      show "${command[@]}"
    elif [[ $i = 0 ]]; then
      "${command[@]}" < /dev/null &
      pids+=($!)
    else
      "${command[@]}" < /dev/null > "$logs/process-$i.log" 2>&1 &
      pids+=($!)
    fi
  done
  set +m
}

# Notes who has ended. The first failure ends the rest: they would wait for it until a time-out.
collect() {
  local i
  for i in "${!pids[@]}"; do
    if [[ -n ${codes[i]-} ]] || kill -0 "${pids[i]}" 2> /dev/null; then continue; fi
    codes[i]=0
    wait "${pids[i]}" || codes[i]=$?
    # All processes of a run stop together, and save.
    if [[ ${codes[i]} = 75 ]]; then stopped=75; fi
    if [[ ${codes[i]} = 0 || ${codes[i]} = 75 || -n $failed ]]; then continue; fi
    failed=${codes[i]}
    echo "error: process $i ended with exit code $failed; the others are told to leave" >&2
    if [[ $i != 0 ]]; then tail -n 5 "$logs/process-$i.log" >&2; fi
    send TERM
    deadline=$((SECONDS + 30))
  done
}

start
if [[ -n $DRY_RUN ]]; then exit 0; fi
trap pass_on INT TERM HUP
if [[ $processes -gt 1 ]]; then echo "launch/local.sh: the processes after 0 print into $logs" >&2; fi
deadline=""
while [[ ${#codes[@]} -lt $processes ]]; do
  collect
  if [[ -n $deadline && $SECONDS -ge $deadline ]]; then send KILL -; fi
  sleep 0.2 &
  wait $! || true
done
exit "${failed:-${stopped:-0}}"
