"""Thinking made visible: a page, a film and a picture of what a machine thought at each tick."""
