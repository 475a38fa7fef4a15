"""Who may come in: passwords, users, the login exchange and the door, without I/O (docs/security.md)."""
