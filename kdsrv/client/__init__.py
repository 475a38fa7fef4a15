"""The client: sessions for programs, and what ``kdsrv connect`` is made of."""
