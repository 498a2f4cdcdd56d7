#!/usr/bin/env bash
# Resolves the ranges of pyproject.toml into exact versions with hashes, one file for each kind of installation.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() { # output file, then options
  local output=$1
  shift
  .venv/bin/uv pip compile --quiet pyproject.toml "$@" --upgrade --python-version 3.11 --generate-hashes --no-header \
    --no-emit-index-url --no-annotate --output-file "requirements/$output"
}
compile agent.txt
compile aggregator.txt --extra aggregator
compile dev.txt --extra aggregator --group dev --group bench
printf '%s\n' 'hatchling==1.28.0' 'editables==0.5' |
  .venv/bin/uv pip compile --quiet - --upgrade --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
    --no-annotate --output-file requirements/build.txt
