"""Merge methods: each one module, headed by its paper."""
