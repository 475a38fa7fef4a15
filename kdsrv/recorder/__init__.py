"""What sessions said, written into files, and read and played back from them."""
