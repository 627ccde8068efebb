# shellcheck shell=bash
# What the launchers share. DRY_RUN=1 prints each command instead of running it.
DRY_RUN=""

# One line on stderr, and exit code 2 as of main.
fail() {
  echo "error: $*" >&2
  exit 2
}

# Prints words so that a shell reads them back unchanged.
show() {
  local line
  printf -v line ' %q' "$@"
  printf '%s\n' "${line:1}"
}

run() {
  if [[ -n $DRY_RUN ]]; then
    show "$@"
  else
    "$@"
  fi
}

whole_number() {
  [[ ${1#*=} =~ ^[1-9][0-9]*$ ]] || fail "$1: it takes a whole number from 1 on"
}

# Reads the words that go to main: sets CONFIG and WORKDIR ('' where absent). Checks what would
# otherwise fail N times over; main checks the rest.
# shellcheck disable=SC2034 # WORKDIR: tpu_pod.sh reads it
read_main_arguments() {
  CONFIG="" WORKDIR=""
  local before="" word
  for word in "$@"; do
    case $before in
      --config) CONFIG=$word ;;
      --workdir) WORKDIR=$word ;;
    esac
    case $word in
      --config=*) CONFIG=${word#*=} ;;
      --workdir=*) WORKDIR=${word#*=} ;;
      --coordinator | --coordinator=* | --num_processes | --num_processes=* | --process_id | --process_id=*)
        fail "${word%%=*} is for the launcher to set: leave it out"
        ;;
    esac
    before=$word
  done
  [[ -n $CONFIG ]] || fail "no config: pass --config configs/NAME.py (configs/ holds the shipped ones)"
}
