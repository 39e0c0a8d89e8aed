"""Interpretation of reward functions: what they pay for, how they differ, and what of it the true reward does not pay for."""
