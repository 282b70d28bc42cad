"""Errors that a user of the local cluster sees."""

from __future__ import annotations


class LocalClusterError(Exception):
    """Something the user can act on; the message says what happened, where, and what to do."""


class ComponentDiedError(LocalClusterError):
    """A process of the control plane ended although nobody stopped it."""


class GoMissingError(LocalClusterError):
    """The Go toolchain is absent or too old to build the binaries."""
