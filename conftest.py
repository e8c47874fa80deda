"""Test settings: tiny programs are compiled often and run once, so compile them quickly, and once.

The processes of one test run share what they compiled in a folder that goes when the run ends.
"""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  compiled = tempfile.mkdtemp(prefix="compiled")
  os.environ |= {"JAX_COMPILATION_CACHE_DIR": compiled,
                 "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                 "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
  atexit.register(shutil.rmtree, compiled, ignore_errors=True)
