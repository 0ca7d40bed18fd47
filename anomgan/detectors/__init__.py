"""Detectors, one file a method: networks, phases and score terms."""
