"""The trainer, adversarial objectives, penalties, checkpoints and health."""
