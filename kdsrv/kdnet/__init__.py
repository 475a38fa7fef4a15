"""KDNET, the kernel debugger's protocol on UDP: keys, datagrams, the host's end, and the KD link on top of it."""
