"""Masked pretraining and the training of heads, on arrays."""
