"""Speed and memory of gloro_fast beside stock PyTorch and the eager reference; see benchmarks/README.md."""
