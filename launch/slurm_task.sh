#!/usr/bin/env bash
# usage: launch/slurm_task.sh COMMAND...
# What each Slurm task executes. Runs COMMAND, one process of main, and exits with its code: 75 where it was
# stopped and has saved, so that slurm.sbatch knows that the run is not over; also where SIGTERM ended main
# before it listened. Slurm signals the task alone, so SIGTERM is passed on; but once, as main takes a
# second one for impatience and leaves without saving.
set -euo pipefail

told="" interrupted=""
# shellcheck disable=SC2329 # by trap
stop() {
  interrupted=1
  # 0, as a bare return in a trap has the code of what it interrupted, which would end this script.
  if [[ -n $told ]]; then return 0; fi
  # Before it is passed on: a second signal may come meanwhile.
  told=1
  kill -TERM "$child" 2> /dev/null || true
}
# Until there is a child, a signal is only remembered: it must not end this process and leave the child.
trap 'told=early' TERM
"$@" &
child=$!
trap stop TERM
if [[ $told = early ]]; then kill -TERM "$child"; fi

while true; do
  code=0
  wait "$child" || code=$?
  if [[ $code -le 128 || -z $interrupted ]]; then break; fi
  # The signal ended the wait, not the child.
  interrupted=""
done
if [[ -n $told && $code = 143 ]]; then exit 75; fi
exit "$code"
