#!/usr/bin/env bash
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
#
# Builds the clients and runs their tests against the real server: tests/clients/run.sh [STAGE…], all stages without one.
#
#   python     the package: wheel and sdist, its types, every call, sync and asyncio
#   openai     OpenAI's own client against the HTTP port
#   adapters   LangChain, LlamaIndex and sentence-transformers on top of it (installs some 5 GB the first time)
#   training   tools/train and tools/train_demo, in the adapters' environment, which has torch
#   go rust node java
#              the examples, each generated from proto/ and built by its own ecosystem's tools
#   wires      what callers of other servers have: PyPI's tritonclient and kserve; with Go, grpcurl and ghz by TEI's proto
#   search     examples/semantic-search: PostgreSQL with pgvector, the command line, the page in headless Chromium
#   bulk       examples/bulk: Ray Data through two servers, killed half way
#
# A stage whose tools are not installed fails, and says what is missing: ./dev setup clients examples brings it.
#
# Needs build/venv and build/release/bin/lion-server (./dev build). What it installs and builds lies under build/clients;
# reports for tools/test_summary.py under build/test. Each stage prints how long it took; exit 1 if one failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly ALL=(python openai adapters training go rust node java wires search bulk)
readonly OUT=build/clients
readonly VENV=$OUT/python/venv

# The Go of ./dev setup clients, before an older one.
if [[ -x build/tools/go/go/bin/go ]]; then PATH=$PWD/build/tools/go/go/bin:$PATH; fi

say() { printf '==> clients: %s\n' "$*"; }
has() { command -v "$1" > /dev/null; }

# venv DIR REQUIREMENTS: exactly those packages; a second time is immediate.
venv() {
  local stamp
  stamp=$(sha256sum < "$2")
  [[ -f $1/stamp && $(< "$1/stamp") == "$stamp" ]] && return
  say "installing $(grep -cv '^#' "$2") packages of $2"
  /usr/bin/python3 -m venv --clear "$1"
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$2"
  printf '%s' "$stamp" > "$1/stamp"
}

# The wheel, by way of the sdist, into $OUT/python/dist.
wheel() {
  venv $VENV tests/clients/python/requirements.txt
  rm -rf $OUT/python/dist
  $VENV/bin/python -m build --no-isolation --outdir $OUT/python/dist client/python > $OUT/python/build.log 2>&1 ||
    { cat $OUT/python/build.log >&2; return 1; }
}

# install_wheel VENV
install_wheel() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall $OUT/python/dist/*.whl; }

# run_tests PYTHON NAME PATH [ARGS]
run_tests() {
  local python=$1 name=$2
  shift 2
  "$python" -m pytest -q -p no:cacheprovider --junitxml="build/test/clients-$name.xml" "$@"
}

run_python() {
  wheel
  install_wheel $VENV
  run_tests $VENV/bin/python python tests/clients/python
}

run_openai() {
  venv "$OUT/openai/venv" tests/clients/openai/requirements.txt
  run_tests "$OUT/openai/venv/bin/python" openai tests/clients/openai
}

# beside_wheel STAGE: tests in an environment of its own that has the wheel.
beside_wheel() {
  wheel
  venv "$OUT/$1/venv" "tests/clients/$1/requirements.txt"
  install_wheel "$OUT/$1/venv"
  run_tests "$OUT/$1/venv/bin/python" "$1" "tests/clients/$1"
}
run_adapters() { beside_wheel adapters; }
run_training() {
  venv "$OUT/adapters/venv" tests/clients/adapters/requirements.txt
  run_tests "$OUT/adapters/venv/bin/python" training tests/train
}
run_search() { beside_wheel search; }
run_bulk() { beside_wheel bulk; }

# Each file by itself: tritonclient and kserve bring the same descriptors under different names.
run_wires() {
  local reason status=0
  venv $OUT/wires/venv tests/clients/wires/requirements.txt
  run_tests $OUT/wires/venv/bin/python wires-triton tests/clients/wires/triton_test.py || status=1
  run_tests $OUT/wires/venv/bin/python wires-kserve tests/clients/wires/kserve_test.py || status=1
  reason=$(missing go)
  if [[ -n $reason ]]; then
    say "wires: grpcurl and ghz SKIPPED: $reason"
  else
    wire_tools && LION_WIRE_TOOLS=$PWD/$OUT/wires/bin run_tests build/venv/bin/python wires-tei tests/clients/wires/tei_test.py || status=1
  fi
  return $status
}

# grpcurl and ghz, into $OUT/wires/bin.
wire_tools() {
  [[ -x $OUT/wires/bin/grpcurl && -x $OUT/wires/bin/ghz ]] && return
  say "building grpcurl and ghz"
  GOBIN=$PWD/$OUT/wires/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 &&
    GOBIN=$PWD/$OUT/wires/bin go install github.com/bojand/ghz/cmd/ghz@v0.121.0
}

# example LANGUAGE: builds and runs it by tests/clients/examples.
example() { run_tests build/venv/bin/python "$1" tests/clients/examples -k "$1"; }
run_go() { example go; }
run_rust() { example rust; }
run_node() { example node; }
run_java() { example java; }

# lacks NAME WANTED VERSION: says so if VERSION (empty: not there) is below WANTED; both are MAJOR.MINOR.
lacks() {
  if [[ -z $3 ]]; then
    echo "there is no $1"
  elif [[ $(printf '%s\n' "$2" "$3" | sort -V | head -n 1) != "$2" ]]; then
    echo "$1 is $3, $2 is needed"
  fi
}

# version COMMAND…: the first MAJOR.MINOR (or MAJOR) that it prints; nothing if it is not there.
version() { { "$@" 2>&1 || true; } 2> /dev/null | grep -oE '[0-9]+(\.[0-9]+)?' | head -n 1 || true; }

# missing STAGE: prints why it cannot run here; nothing if it can.
missing() {
  case $1 in
    go) lacks go 1.25 "$(has go && GOTOOLCHAIN=local version go version)" ;;
    rust) lacks cargo 1.85 "$(has cargo && version cargo --version)" ;;
    node) lacks node 18 "$(has npm && has node && version node --version)" ;;
    java) lacks "javac with Maven" 17 "$(has mvn && has javac && version javac -version)" ;;
    search) has chromium || echo "there is no chromium" ;;
  esac
}

main() {
  local stage start status reason failed=0 stages=("$@")
  [[ $# -gt 0 ]] || stages=("${ALL[@]}")
  mkdir -p $OUT build/test
  for stage in "${stages[@]}"; do
    [[ " ${ALL[*]} " == *" $stage "* ]] || { echo "tests/clients/run.sh: no stage '$stage'; there are: ${ALL[*]}" >&2; exit 2; }
    reason=$(missing "$stage")
    if [[ -n $reason ]]; then
      say "$stage: FAILED: $reason; ./dev setup clients examples brings it"
      failed=1
      continue
    fi
    start=$SECONDS
    set +e  # not `… || status=$?`, which would switch set -e off inside
    (set -e; "run_$stage")
    status=$?
    set -e
    if [[ $status == 0 ]]; then say "$stage: ok, $((SECONDS - start)) s"; else say "$stage: FAILED, $((SECONDS - start)) s"; failed=1; fi
  done
  return $failed
}

main "$@"; exit
