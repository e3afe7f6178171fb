"""The orchestrator decides which candidates to try, and remembers every one."""
