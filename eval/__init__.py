"""Metrics, baselines and benchmarks; the product is result JSON."""
