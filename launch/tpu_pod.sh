#!/usr/bin/env bash
# Runs main on all workers of a TPU VM slice, through preemptions.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

help() {
  cat << 'HELP'
usage: launch/tpu_pod.sh --name=NAME --zone=ZONE --type=TYPE [OPTIONS]
                         --config FILE --workdir DIR [--config.KEY=VALUE ...]
       launch/tpu_pod.sh --name=NAME --zone=ZONE --stop | --tear-down

Creates the slice, or takes the one of this name; copies one commit of this checkout to every worker,
installs the versions of constraints.txt there, runs `python -m lafg_jax.main` on all of them and
prints worker 0's log until it ends. What is not an option of this script goes to main. A preempted slice
is deleted and made again, and the run goes on from its last checkpoint. Ctrl-C leaves the run alone: the
same command prints its log again.

DIR has to outlive the slice and be seen by all workers: gs://BUCKET/FOLDER or a mounted file system.
FILE is a path inside the checkout.

  --name=NAME --zone=ZONE  of the slice; a queued resource has the slice's name
  --type=TYPE              accelerator type, such as v5litepod-16 or v6e-64
  --project=PROJECT        (default: gcloud's)
  --spot                   a slice that can be preempted
  --queued                 ask through a queued resource, and wait for it
  --runtime=VERSION        software of the VMs (default: by TYPE)
  --commit=REF             what to copy (default: HEAD, which then has to hold all changes)
  --extras=LIST            extras of setup.py to install (default: language,data,tpu)
  --max-preemptions=N      give up after so many (default: 100)
  --poll=SECONDS           between two looks at the slice (default: 30)
  --delete-when-done       tear down once the run has ended with success
  --stop                   tell the run to save and leave; the slice stays
  --tear-down              delete the slice and its queued resource
  --dry-run                print the commands of a new slice and run none
HELP
}

name="" zone="" type="" project="" spot="" queued="" runtime="" ref="" extras=language,data,tpu
max_preemptions=100 poll=30 action=run delete_when_done="" rest=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --help | -h) help && exit 0 ;;
    --dry-run) DRY_RUN=1 ;;
    --name=?*) name=${1#*=} ;;
    --zone=?*) zone=${1#*=} ;;
    --type=?*) type=${1#*=} ;;
    --project=?*) project=${1#*=} ;;
    --spot) spot=1 ;;
    --queued) queued=1 ;;
    --runtime=?*) runtime=${1#*=} ;;
    --commit=?*) ref=${1#*=} ;;
    --extras=*)
      extras=${1#*=}
      # It becomes a word of a command on the workers.
      [[ $extras =~ ^[A-Za-z0-9_,-]+$ ]] || fail "$1: it takes names with commas between, such as data,tpu"
      ;;
    --max-preemptions=*) whole_number "$1" && max_preemptions=${1#*=} ;;
    --poll=*) [[ $1 = --poll=0 ]] || whole_number "$1" && poll=${1#*=} ;;
    --delete-when-done) delete_when_done=1 ;;
    --stop) action=stop ;;
    --tear-down) action=tear_down ;;
    *) rest+=("$1") ;;
  esac
  shift
done

[[ -n $name && -n $zone ]] || fail "pass --name=NAME and --zone=ZONE; see launch/tpu_pod.sh --help"
place=("--zone=$zone" ${project:+"--project=$project"})
tpus=(gcloud compute tpus)
[[ -n $DRY_RUN ]] || command -v gcloud > /dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk"

SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
# shellcheck source=launch/tpu_slice.sh
source "$ROOT/launch/tpu_slice.sh"

# on WORKER COMMAND: runs a shell command on one worker, or on all.
on() {
  run "${tpus[@]}" tpu-vm ssh "$name" "${place[@]}" --worker="$1" --quiet --command="$2"
}

if [[ $action != run ]]; then
  [[ ${#rest[@]} = 0 ]] || fail "--${action//_/-} takes no ${rest[0]}"
  case $action in
    stop) on all "bash lafg_jax/current/launch/tpu_worker.sh stop" ;;
    tear_down) delete_slice ;;
  esac
  exit 0
fi

[[ -n $type ]] || fail "pass --type=TYPE, such as --type=v5litepod-16"
if [[ -z $runtime ]]; then
  case $type in
    v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "--type=$type: no runtime is known for it; pass --runtime=VERSION" ;;
  esac
fi
read_main_arguments ${rest[@]+"${rest[@]}"}
case $WORKDIR in
  gs://?* | /*) ;;
  *) fail "--workdir=$WORKDIR: it has to outlive the slice: gs://BUCKET/FOLDER, or a folder mounted on all workers" ;;
esac
commit=$(git -C "$ROOT" rev-parse --verify --quiet "${ref:-HEAD}^{commit}") || fail "--commit=${ref:-HEAD}: no such commit"
if [[ -z $ref ]] && ! git -C "$ROOT" diff --quiet HEAD; then
  fail "changes that are not committed would not be on the workers: commit them, or pass --commit=HEAD"
fi
file=${CONFIG%%:*}
# The name of a shipped config.
if [[ $file =~ ^[A-Za-z0-9_]+$ ]]; then file=configs/$file.py; fi
git -C "$ROOT" cat-file -e "$commit:$file" 2> /dev/null || fail "--config: $file is not in commit $commit"

worker="bash lafg_jax/$commit/launch/tpu_worker.sh"

# Puts the commit on all workers and begins the run; all of it may be repeated while the run is at work.
deliver() {
  local archive=$SCRATCH/$commit.tar.gz
  run git -C "$ROOT" archive --format=tar.gz --output="$archive" "$commit" || return
  run "${tpus[@]}" tpu-vm scp "$archive" "$name:" "${place[@]}" --worker=all --quiet || return
  on all "mkdir -p lafg_jax/$commit && tar -xzf $commit.tar.gz -C lafg_jax/$commit && \
ln -sfn $commit lafg_jax/current && $worker install $extras" || return
  on all "$worker start$(printf ' %q' "${rest[@]}")"
}

# After a run that ended with code $1: the slice may still say READY for a while when it is taken away.
look_after() {
  local looks
  for looks in 1 2 3 4; do
    look_at_slice
    if [[ $STATE != READY ]]; then return; fi
    case $1 in
      75 | 137 | 143 | 255) if [[ $looks != 4 ]]; then sleep "$poll"; fi ;;
      *) return ;;
    esac
  done
}

leave() {
  echo "launch/tpu_pod.sh: the run goes on without this terminal; the same command prints its log, --stop ends it" >&2
  exit 130
}

preemptions=0 drops=0 lines=+1
while true; do
  make_ready
  code=0
  trap leave INT
  deliver || code=$?
  if [[ $code = 0 ]]; then
    drops=0
    on 0 "$worker follow $lines" || code=$?
  fi
  trap - INT
  if [[ $code = 0 ]]; then break; fi
  look_after "$code"
  if [[ $STATE != READY ]]; then
    preemptions=$((preemptions + 1)) lines=+1
    [[ $preemptions -le $max_preemptions ]] || fail "preempted $preemptions times: --max-preemptions=$max_preemptions"
    say "preempted ($STATE), for the $preemptions. time; the run goes on where it was saved"
  elif [[ $code = 75 ]]; then
    say "the run was told to stop, and has saved; the same command goes on"
    exit 75
  elif [[ $code = 255 && $drops -lt 5 ]]; then
    drops=$((drops + 1)) lines=20
    say "the connection was lost; trying again"
  else
    on all "bash lafg_jax/current/launch/tpu_worker.sh last" >&2 || true
    echo "error: worker 0 or a command on the workers ended with exit code $code; the slice $name is left as it is" >&2
    exit "$code"
  fi
done
if [[ -n $DRY_RUN ]]; then echo "# after a preemption, all of this again after:" && delete_slice && exit 0; fi
if [[ -n $delete_when_done ]]; then delete_slice; else say "$name costs until --tear-down"; fi
