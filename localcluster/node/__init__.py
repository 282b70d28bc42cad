"""The process node: a small kubelet that runs the containers of its pods as local processes."""
