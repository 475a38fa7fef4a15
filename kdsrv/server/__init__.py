"""The server: a Twisted service that lends targets to clients."""
