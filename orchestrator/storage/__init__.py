"""The population database: every campaign, candidate, attempt and score."""
