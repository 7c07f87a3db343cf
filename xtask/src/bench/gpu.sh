#!/bin/sh
# Runs the benchmark beside this machine's PyTorch 2.11: ./run.sh [--cpu-dry-run] [--seconds N].
# TORCH_LIB names the folder with libtorch_cpu.so where the PyTorch of python3 is not the one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${TORCH_LIB:-}" ]; then
    TORCH_LIB=$(python3 -c 'import importlib.util as util
print(util.find_spec("torch").submodule_search_locations[0] + "/lib")') || {
        echo "python3 has no PyTorch here; TORCH_LIB=<its folder torch/lib> names one" >&2
        exit 1
    }
fi
version=$(sed -n "s/^__version__ = '\(.*\)'.*/\1/p" "$TORCH_LIB/../version.py" 2>/dev/null || true)
case "$version" in
    2.11.* | "") ;;
    *) echo "expected PyTorch 2.11, found $version in $TORCH_LIB" >&2; exit 1 ;;
esac
# PyTorch's own libraries find NVIDIA's by themselves; the compiler of kernels and the driver are looked for by name.
for folder in "$TORCH_LIB"/../../nvidia/*/lib /usr/local/nvidia/lib64; do
    if [ -d "$folder" ]; then TORCH_LIB="$TORCH_LIB:$folder"; fi
done
export LD_LIBRARY_PATH="$TORCH_LIB${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-expandable_segments:True}"
state() {
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,power.limit,memory.total \
        --format=csv,noheader 2>/dev/null || true
}
state >&2
ended=0
"$here/gpu" "$@" || ended=$?
state >&2
exit "$ended"
