"""The external.metrics.k8s.io API: it serves the replicas that the leader published to the HorizontalPodAutoscaler.

It decides nothing. Any replica of it answers, also while the leader is away, because the answer stands in the status of
the DepthServices.
"""
