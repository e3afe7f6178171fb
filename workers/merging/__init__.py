"""Carries merges out: blocks that stay in cache, statistics that are kept, fused kernels."""
