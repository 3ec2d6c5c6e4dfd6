"""Running an ONNX graph from a stranger once, in a process of its own that may use only so much memory and time.

The static check cannot tell how large a graph's intermediate results are: forty doublings of one number fill any
memory. Whoever imports a hasher lets it run here first.

    python -m hashcli.onnx_probe FILE...   runs each on zeros; exit status 0 when all ran
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hashcli.errors import DamagedError

MEMORY_BYTES = 4 << 30  # beside 8 times the files
CPU_SECONDS = 60


def probe(files: Sequence[Path]) -> None:
    """Run each graph on two rows of zeros. Raises DamagedError when one fails or uses too much."""
    memory = MEMORY_BYTES + 8 * sum(path.stat().st_size for path in files)
    command = [sys.executable, "-m", "hashcli.onnx_probe", str(memory), *map(str, files)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * CPU_SECONDS)
    except subprocess.TimeoutExpired:
        raise DamagedError(f"{files[0].name} runs for longer than a hasher may") from None
    if done.returncode:
        raise DamagedError(f"{' or '.join(p.name for p in files)} does not run within the memory and time of a hasher")


def _run(memory: int, files: Sequence[str]) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    if sys.platform == "linux":  # macOS does not honor it; there time alone is limited
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    import numpy as np
    import onnxruntime  # type: ignore[import-untyped]

    types = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for file in files:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        ports = session.get_inputs()
        session.run(None, {p.name: np.zeros([2, *p.shape[1:]], types[p.type]) for p in ports})


if __name__ == "__main__":
    _run(int(sys.argv[1]), sys.argv[2:])
