"""Continuous Thought Machines: networks that think in ticks and read out what synchronises."""
