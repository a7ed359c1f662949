#!/usr/bin/env bash
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
#
# Packs the CUDA tests and benchmarks for a GPU machine that has torch (with its CUDA wheels) but neither this build's libraries
# nor a network:
#
#   tools/gpu_bundle.sh [PROGRAM...]     from build/release-cuda/bin into build/gpu; all cuda_* programs if none is named
#
# There, in the root of a copy of this tree: build/gpu/run.sh [ARGS of GoogleTest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly BIN=build/release-cuda/bin OUT=build/gpu
# What every Linux or torch's wheels bring along.
readonly ELSEWHERE='^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libutil|libgcc_s|libstdc\+\+|libgomp.*|libtorch.*|libc10.*|libcud.*|libcublas.*|libcupti.*|libnv.*)[.-]'

if [[ $# -gt 0 ]]; then programs=("${@/#/$BIN/}"); else programs=("$BIN"/cuda_*); fi
rm -rf $OUT
mkdir -p $OUT/bin $OUT/lib
for program in "${programs[@]}"; do
  strip -o "$OUT/bin/${program##*/}" "$program"
  ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | while read -r library; do
    [[ ${library##*/} =~ $ELSEWHERE ]] || cp -nL "$library" $OUT/lib/
  done
done
tar -C $OUT -czf $OUT/programs.tar.gz bin lib  # a third of the size
rm -r $OUT/bin $OUT/lib
printf '%s\n' "$PWD" > $OUT/source_dir  # tests name their data by it

cat > $OUT/run.sh <<'RUN'
#!/usr/bin/env bash
# Runs every test and then every benchmark beside this file; fails if one of them does. Arguments go to the tests.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tar -C "$here" -xzf "$here/programs.tar.gz" || exit 1
site=$(python3 -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("torch").origin).parent.parent)') || exit 1
export LD_LIBRARY_PATH=$here/lib:$site/torch/lib:$site/nvidia/cu13/lib:$site/nvidia/cublas/lib:$site/nvidia/cuda_runtime/lib:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}
source_dir=$(< "$here/source_dir")
if [[ ! -e $source_dir ]]; then mkdir -p "${source_dir%/*}" && ln -s "$(cd "$here/../.." && pwd)" "$source_dir"; fi
failed=0
for program in "$here"/bin/*_test "$here"/bin/*_bench; do
  [[ -x $program ]] || continue
  start=$SECONDS
  if [[ $program == *_test ]]; then "$program" --gtest_brief=1 "$@"; else "$program"; fi
  status=$?
  [[ $status == 0 ]] || failed=1
  printf '==> %s: status %d, %d s\n' "${program##*/}" $status $((SECONDS - start))
done
exit $failed
RUN
chmod +x $OUT/run.sh
du -sh $OUT
