"""Language models: what is measured and optimised of them. What needs transformers or TRL is in here and nowhere else."""
