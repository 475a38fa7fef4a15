"""The kdsrv protocol between client and server, without I/O (docs/wire-protocol.md)."""
