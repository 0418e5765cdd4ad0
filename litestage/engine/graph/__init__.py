"""Decode steps for a GPU: tensors of fixed place and shape, compiled, recorded, and run ahead of the host."""
