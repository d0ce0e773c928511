"""STORM."""
