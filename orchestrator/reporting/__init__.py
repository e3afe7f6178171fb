"""What a campaign came to: its result, what may be said of it, and how that is shown."""
