"""What carries bytes to a target: one module per medium, one contract for all."""
