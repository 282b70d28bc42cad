"""The decision how many replicas a DepthService should have.

Everything here is pure: samples in, a decision with its reasons out. No I/O, no clock, no kopf, no kubernetes, so that
the operator, a simulator and a command-line explainer run the very same law.
"""
