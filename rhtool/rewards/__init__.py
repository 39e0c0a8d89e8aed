"""Rewards of texts: scores (B, K) by K judges, and one combination over the judges."""
