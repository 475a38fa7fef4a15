"""What is wrong with a line to a target: evidence, a verdict, and what to do."""
