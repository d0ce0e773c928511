"""Preparation of sections."""
