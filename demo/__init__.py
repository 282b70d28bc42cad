"""`make demo`: from nothing to a depth map on one machine, told stage by stage."""
