#!/usr/bin/env bash
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
#
# Packs the CUDA tests, the benchmarks, the server and the client for a GPU machine that has torch (with its CUDA wheels) but neither
# this build's libraries nor a network:
#
#   tools/gpu_bundle.sh [--build DIR] [--out DIR] [PROGRAM...]
#
# DIR: build/release-cuda and build/gpu unless named. Programs: all cuda_*, image_engine_bench, lion-server, lion-client and oracle_error unless named.
# There, in the root of a copy of this tree: build/gpu/run.sh [STAGE...]; it says itself what the stages are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=build/release-cuda out=build/gpu
while [[ ${1:-} == --* ]]; do
  case $1 in
    --build) build=$2 ;;
    --out) out=$2 ;;
    *) echo "gpu_bundle.sh: no option $1" >&2; exit 2 ;;
  esac
  shift 2
done
readonly MAX_MIB=60  # with the tree beside it a bundle should still be easy to send
# What every Linux or torch's wheels bring along.
readonly ELSEWHERE='^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libutil|libgcc_s|libstdc\+\+|libgomp.*|libtorch.*|libc10.*|libcud.*|libcublas.*|libcupti.*|libnv.*)[.-]'

if [[ $# -gt 0 ]]; then
  programs=("${@/#/$build/bin/}")
else
  programs=("$build"/bin/cuda_* "$build"/bin/{image_engine_bench,lion-server,lion-client,oracle_error})
fi
rm -rf "$out"
mkdir -p "$out"/{bin,lib,wheels}
for program in "${programs[@]}"; do
  strip -o "$out/bin/${program##*/}" "$program"
  ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | while read -r library; do
    [[ ${library##*/} =~ $ELSEWHERE ]] || cp -nL "$library" "$out/lib/"
  done
done
# The programs share most of their code: a window that spans several of them makes the pack a third of what gzip makes of it.
tar -C "$out" -c bin lib | xz -T1 --lzma2=preset=1,dict=128MiB > "$out/programs.tar.xz"
rm -r "$out"/{bin,lib}
mkdir -p build/wheels
build/venv/bin/python -m pip download -q --no-deps --only-binary=:all: -d build/wheels -r bench/peers/requirements.txt
cp build/wheels/*.whl "$out/wheels/"
printf '%s\n' "$PWD" > "$out/source_dir"  # tests name their data by it
git rev-parse --short=12 HEAD > "$out/commit"

cat > "$out/run.sh" <<'RUN'
#!/usr/bin/env bash
# run.sh [STAGE...], in any order; without one: tests bench peers service quality.
#
#   tests     every CUDA test (GTEST_FILTER chooses)      peers     what others reach on this GPU
#   sanitize  compute-sanitizer over the kernels' tests   service   latency and throughput through gRPC
#   bench     engine (LION-S against its floor),          quality   what each precision costs
#             engine_others and kernels                   documents rows up to ten million tokens
#   images    LION's and timm's image encoders, pictures of 224 to 1,792 pixels a side
#
# Figures go to cuda_bench.json in the folder $OUT, or in out/ beside this file, after every stage. DEVICE=cuda:0,cuda:1 measures two GPUs, SHORT=1 small models.
# Says how long each stage took; exits with the number of stages that failed.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(pwd)
out=${OUT:-$here/out}
[[ -f $root/bench/run_cuda.py ]] || { echo "run.sh: run this in the root of the source tree" >&2; exit 2; }
mkdir -p "$out"
tar -C "$here" -xJf "$here/programs.tar.xz" || exit 1
site=$(python3 -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("torch").origin).parent.parent)') || exit 1
export LD_LIBRARY_PATH=$here/lib:$site/torch/lib:$site/nvidia/cu13/lib:$site/nvidia/cublas/lib:$site/nvidia/cuda_runtime/lib:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}
source_dir=$(< "$here/source_dir")
if [[ ! -e $source_dir ]]; then mkdir -p "${source_dir%/*}" && ln -s "$root" "$source_dir"; fi

failed=0
# stage NAME COMMAND...: its time and status; a failure is counted and the others go on.
stage() {
  local name=$1 start=$SECONDS status
  shift
  "$@"
  status=$?
  [[ $status == 0 ]] || failed=$((failed + 1))
  printf '==> stage %s: %s, %d s\n' "$name" "$([[ $status == 0 ]] && echo ok || echo "FAILED ($status)")" $((SECONDS - start))
}

run_tests() {
  local program start bad=0
  for program in "$here"/bin/*_test; do
    start=$SECONDS
    "$program" --gtest_brief=1 || bad=1
    printf '    %s: %d s\n' "${program##*/}" $((SECONDS - start))
  done
  return $bad
}

run_benches() {
  local site=$here/site
  if [[ ,$1, =~ ,(peers|images), && ! -d $site ]]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$here"/wheels/*.whl || return 1
  fi
  PYTHONPATH=$site:${PYTHONPATH:-} python3 bench/run_cuda.py --bin "$here/bin" --out "$out" --stages "$1" --device "${DEVICE:-cuda:0}" \
    --commit "$(< "$here/commit")" ${SHORT:+--short}
}

[[ $# -gt 0 ]] || set -- tests bench peers service quality
benches=
for name in "$@"; do
  case $name in
    tests) stage tests run_tests ;;
    sanitize) stage sanitize tools/cuda_sanitize.sh "$here/bin" ;;
    bench) benches+=,engine,engine_others,kernels ;;
    engine | engine_others | kernels | peers | service | quality | documents | images) benches+=,$name ;;
    *) echo "run.sh: no stage $name" >&2; exit 2 ;;
  esac
done
# All benchmarks in one run, so that their figures stand beside each other.
if [[ -n $benches ]]; then
  stage "bench (${benches#,})" run_benches "${benches#,}"
fi
exit $failed
RUN
chmod +x "$out/run.sh"
mib=$(du -sm "$out" | cut -f1)
echo "$out: $mib MiB"
[[ $mib -le $MAX_MIB ]] || { echo "gpu_bundle.sh: that is more than $MAX_MIB MiB; name fewer programs" >&2; exit 1; }
