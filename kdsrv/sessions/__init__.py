"""Who holds which target, and what is known about it."""
