"""Kubernetes on one Linux machine without root, containers or downloads: `python -m localcluster up`."""
