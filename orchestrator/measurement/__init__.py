"""How much of the rows a candidate is measured on, and what that says about it."""
