# shellcheck shell=bash
# shellcheck disable=SC2154 # name, zone, type, ...: tpu_pod.sh
# The life of a slice, for tpu_pod.sh, whose variables it reads. STATE is what look_at_slice saw.
STATE="" seen=""

say() {
  echo "launch/tpu_pod.sh: $*" >&2
}

# look KIND FORMAT: sets STATE to what gcloud says of the slice's tpu-vm or queued-resources, NONE where there
# is none. Once it has answered, a few failures are put down to the network.
look() {
  local command=("${tpus[@]}" "$1" describe "$name" "${place[@]}" "--format=value($2)") tries=0
  if [[ -n $DRY_RUN ]]; then show "${command[@]}" && return; fi
  until STATE=$("${command[@]}" 2> "$SCRATCH/errors"); do
    if grep -q NOT_FOUND "$SCRATCH/errors"; then
      STATE=NONE
      break
    fi
    tries=$((tries + 1))
    [[ -n $seen && $tries -lt 10 ]] || fail "gcloud: $(tail -n 1 "$SCRATCH/errors")"
    sleep "$poll"
  done
  seen=1
}

# Sets STATE to that of the queued resource until it is ACTIVE, then to that of the slice.
look_at_slice() {
  local granted="" found
  if [[ -n $queued ]]; then
    look queued-resources state.state
    if [[ -z $DRY_RUN && $STATE != ACTIVE ]]; then return; fi
    granted=1
  fi
  look tpu-vm "state,acceleratorType.basename()"
  if [[ -n $DRY_RUN ]]; then return; fi
  read -r STATE found <<< "$STATE"
  # An active queued resource without its slice is of no more use.
  if [[ -n $granted && $STATE = NONE ]]; then STATE=SUSPENDED; fi
  if [[ $STATE = READY && -n $found && $found != "$type" ]]; then
    fail "$name is a $found, not a $type: pass another --name, or --type=$found"
  fi
}

create_slice() {
  local command=("${tpus[@]}")
  if [[ -n $queued ]]; then
    command+=(queued-resources create "$name" --node-id="$name" --runtime-version="$runtime")
  else
    command+=(tpu-vm create "$name" --version="$runtime")
  fi
  command+=("${place[@]}" --accelerator-type="$type" ${spot:+--spot} --quiet)
  if [[ -n $DRY_RUN ]]; then show "${command[@]}" && return; fi
  say "creating $name ($type)"
  if "${command[@]}" 2> "$SCRATCH/errors"; then return; fi
  if grep -qi "no more capacity\|stockout" "$SCRATCH/errors"; then
    say "no $type is free in $zone; trying again every $poll s (--queued waits in a queue)"
    sleep "$poll"
  elif ! grep -q ALREADY_EXISTS "$SCRATCH/errors"; then
    fail "gcloud: $(tail -n 1 "$SCRATCH/errors")"
  fi
}

# The queued resource with its slice, or the slice; whichever is there.
delete_slice() {
  look queued-resources state.state
  if [[ -n $DRY_RUN && -n $queued || -z $DRY_RUN && $STATE != NONE ]]; then
    run "${tpus[@]}" queued-resources delete "$name" "${place[@]}" --force --quiet
    return
  fi
  look tpu-vm state
  if [[ $STATE = NONE && -z $DRY_RUN ]]; then
    say "there is no $name in $zone"
  else
    run "${tpus[@]}" tpu-vm delete "$name" "${place[@]}" --quiet
  fi
}

# Returns when the slice is READY, whatever has to be done for that.
make_ready() {
  local before=""
  if [[ -n $DRY_RUN ]]; then
    look_at_slice
    create_slice
    echo "# until it is READY:"
    look_at_slice
    return
  fi
  while true; do
    look_at_slice
    case $STATE in
      READY) return ;;
      NONE) create_slice ;;
      PREEMPTED | TERMINATED | SUSPENDED)
        say "$name is $STATE: deleting it, to make it anew"
        delete_slice
        ;;
      STOPPED) run "${tpus[@]}" tpu-vm start "$name" "${place[@]}" --quiet ;;
      ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING | \
        STOPPING | SUSPENDING | DELETING)
        if [[ $STATE != "$before" ]]; then say "$name is $STATE; waiting"; fi
        sleep "$poll"
        ;;
      *) fail "$name is ${STATE:-in no known state}: look at it with gcloud, or delete it with --tear-down" ;;
    esac
    before=$STATE
  done
}
