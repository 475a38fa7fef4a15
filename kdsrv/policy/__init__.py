"""What a server's clients may open."""
