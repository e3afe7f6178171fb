"""Search algorithms: one file each, headed by its source."""
