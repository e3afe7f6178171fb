"""Source models: found, inspected, opened; and the files of models that are made."""
