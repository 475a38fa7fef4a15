"""TLS between client and server: certificates, what each end checks, and the binding of a login to its connection."""
