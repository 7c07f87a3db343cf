"""Writes wheels.txt: `python3 pins.py > wheels.txt` (pip 23.2 or newer, network).

Run it when tch moves to another libtorch. It asks pip for torch and everything that torch depends on, keeps
torch and the NVIDIA libraries, and marks with `cpu` what the CPU side of torch loads.
"""

import json
import subprocess
import sys
import urllib.request

TORCH = "torch==2.11.0"
CPU_SIDE = {"torch", "nvidia-cuda-runtime", "nvidia-cuda-cupti"}  # libtorch_cpu.so names libcudart and libcupti
LEVELS = [f"manylinux_2_{minor}" for minor in range(17, 29)] + ["manylinux2014", "linux"]

print(__doc__.splitlines()[0].replace("Writes wheels.txt:", "# Made by pins.py:"))
print("# arch side sha256 bytes file")
for arch in ("x86_64", "aarch64"):
    report = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report=-"]
        + ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311", "--target=unused"]
        + [f"--platform={level}_{arch}" for level in LEVELS]
        + [TORCH],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    for item in json.loads(report)["install"]:
        name = item["metadata"]["name"]
        if name != "torch" and not name.startswith("nvidia-"):
            continue  # sympy, triton and the like: Python only
        url = item["download_info"]["url"]
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as head:
            size = head.headers["Content-Length"]
        print(arch, "cpu" if name in CPU_SIDE else "cuda", sha256, size, url.rsplit("/", 1)[1])
