"""Builders turn recipes into models in memory."""
