"""Datasets for anomgan."""
