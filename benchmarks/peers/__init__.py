"""The same work on this project and on its peers, in turn, on one server: `make bench-peers`."""
