"""Networks: torch modules with a member axis in front."""
