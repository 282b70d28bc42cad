"""Depth Anything as plain torch modules: tensors in, tensors out; nothing here knows of HTTP, images or threads."""
