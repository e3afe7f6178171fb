"""Spaces: what may be searched, and how a genome becomes a recipe."""
