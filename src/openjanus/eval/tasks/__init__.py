"""Benchmarks of understanding in the layouts that they are published in, one file each."""
