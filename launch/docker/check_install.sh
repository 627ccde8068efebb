#!/usr/bin/env bash
# Runs a Dockerfile's install lines in a clean virtual environment: what can be checked without Docker.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=launch/common.sh
source launch/common.sh

help() {
  cat << 'HELP'
usage: launch/docker/check_install.sh --image=cpu|cuda [--python=PYTHON] [--keep=FOLDER] [--dry-run]

Copies what launch/docker/Dockerfile.<image> copies into an empty folder, runs its RUN lines there in a
new virtual environment, checks the installed versions against constraints.txt (pip check), prints
the command's help and a sum that JAX computes, and prints size and time.

  --python=PYTHON  makes the environment (default: python3.11)
  --keep=FOLDER    works there and leaves it (default: a temporary folder, deleted at the end)
  --dry-run        prints the commands and runs none
HELP
}

image="" python=python3.11 folder=""
for arg in "$@"; do
  case $arg in
    --help | -h) help && exit 0 ;;
    --dry-run) DRY_RUN=1 ;;
    --image=cpu | --image=cuda) image=${arg#*=} ;;
    --python=?*) python=${arg#*=} ;;
    --keep=?*) folder=${arg#*=} ;;
    *) fail "$arg: see launch/docker/check_install.sh --help" ;;
  esac
done
[[ -n $image ]] || fail "pass --image=cpu or --image=cuda"
dockerfile=launch/docker/Dockerfile.$image

if [[ -z $folder ]]; then
  if [[ -n $DRY_RUN ]]; then
    folder=/tmp/lafg_jax-$image
  else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
  fi
fi

run "$python" -m venv "$folder/venv"
run mkdir -p "$folder/workspace"
while read -r -a words; do
  # The last word is where to, inside of WORKDIR.
  for source in "${words[@]:1:${#words[@]}-2}"; do
    run cp -r --parents "$source" "$folder/workspace"
  done
done < <(grep '^COPY' "$dockerfile")
while read -r line; do
  run env -C "$folder/workspace" "PATH=$folder/venv/bin:$PATH" bash -euc "${line#RUN }"
done < <(grep '^RUN' "$dockerfile")
inside=(env -C "$folder/workspace" "PATH=$folder/venv/bin:$PATH")
run "${inside[@]}" python -m pip check
run "${inside[@]}" python -m lafg_jax.main --help
run "${inside[@]}" JAX_PLATFORMS=cpu python -c 'import jax; print(jax.__version__, jax.numpy.arange(4).sum())'
run du -sh "$folder/venv"
[[ -n $DRY_RUN ]] || echo "$dockerfile: installed and started in $SECONDS s"
