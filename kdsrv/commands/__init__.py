"""The commands of the `kdsrv` program, one module each."""
