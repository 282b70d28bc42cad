"""HTTP server for monocular depth estimation with Depth Anything."""
