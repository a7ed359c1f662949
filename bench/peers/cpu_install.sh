#!/usr/bin/env bash
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
#
# Makes the environments that bench/peers/cpu_peers.py runs in: build/peers/torch (sentence-transformers and torch, about
# 5 GB) and build/peers/onnx (ONNX Runtime). What is there already and as listed is left alone.
#
#   bench/peers/cpu_install.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

for peer in torch onnx; do
  list=bench/peers/cpu_$peer.txt
  venv=build/peers/$peer
  if cmp -s "$list" "$venv/installed.txt"; then continue; fi
  echo "==> $venv: $(grep -cv '^#' "$list") packages of $list, and what they need"
  [[ -x $venv/bin/python ]] || /usr/bin/python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$list"
  cp "$list" "$venv/installed.txt"
done
