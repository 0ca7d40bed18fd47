"""Scores in torch: the definitions that the exported graph repeats."""
