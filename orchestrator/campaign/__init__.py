"""The campaign: which candidates there are, how they are measured, and how it ends."""
