"""Several byte streams over one serial cable, between the lab host and a desk (connection strings, 2.3 and 2.4)."""
