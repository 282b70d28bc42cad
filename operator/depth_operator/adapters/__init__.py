"""I/O at the edge, behind the Protocols of `depth_operator.ports`."""
