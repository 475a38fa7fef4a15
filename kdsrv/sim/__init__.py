"""A simulated Windows-like target to try debuggers on, and to test with."""
