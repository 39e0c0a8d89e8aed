"""AI feedback: which of two answers is better by a principle, as a server, a model, a reward model or a program has it."""
