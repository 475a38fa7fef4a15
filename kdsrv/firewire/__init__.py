"""KD over 1394: mailboxes in the memory of the target, which the host reads and writes over the bus. Experimental."""
