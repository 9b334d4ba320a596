"""Benchmarks: each loads, prompts and scores; runs through lm-eval."""
