"""Texts that language models learn from: prompts, demonstrations, preferences. Light: libraries are imported when a method runs."""
