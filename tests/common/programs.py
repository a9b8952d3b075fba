"""Python programs as processes of their own."""

import os
import subprocess
import sys

CONFIG = """manifest: data/mixture.yaml
backbone: {{reference: {backbone}, dtype: float32}}
prompt: {{length: 4, dropout: 0.1}}
optimizer: {{warmup_steps: 1}}
training: {{steps: 4, tokens_per_micro_batch: 256, micro_batches: 4}}
evaluation: {{every_steps: 2}}
"""


def program(*arguments, status=0):
    """Run Python with one thread a process, as torchrun has it: the number of threads may change the last bits."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == status, done.stderr
    return done
