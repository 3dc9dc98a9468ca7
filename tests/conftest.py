"""Makes `tests/support`, and the packages of `benchmarks`, importable."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "benchmarks")]
