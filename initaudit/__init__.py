"""Audit how a PyTorch model is initialized."""
