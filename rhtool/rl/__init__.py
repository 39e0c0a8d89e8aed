"""Reinforcement learning on the pinned ray's new API stack. Everything that imports ray lives here."""
