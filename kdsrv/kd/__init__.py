"""The KD protocol: packets, framing, the link machine and payloads. Pure: no clock, no sockets, no Twisted."""
