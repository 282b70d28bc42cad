"""Trains the bundled demo weights: a tiny Depth Anything on procedurally rendered scenes with exact depth."""
