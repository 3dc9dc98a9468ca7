"""What the benchmarks find: kept under docs/figures/performance, shown in docs/performance.md."""
