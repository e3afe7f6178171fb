"""Language models that answer lm-eval's requests: what is planned once, and what runs for each."""
