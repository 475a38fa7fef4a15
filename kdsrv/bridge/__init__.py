"""Bridges: where an unmodified debugger finds a session that looks like a plain KD serial line."""
