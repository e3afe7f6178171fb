"""Evolutionary operators: small records of settings whose calls are pure functions."""
