#!/usr/bin/env bash
# Installs the Debian packages that a list names, if any is missing. Versions are those of the release (bookworm) with
# its security updates: pinning them exactly would break with the next point release.
set -euo pipefail

list=$1
mapfile -t packages < <(grep -Ev '^(#|$)' "$list")
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

sudo=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "error: these packages are missing and need root to install: ${missing[*]} (run as root, or install sudo)" >&2
    exit 1
  fi
  sudo=(sudo)
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
