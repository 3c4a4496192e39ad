"""What evals with probes are made of: the probes, their training and trials, erasure along them, first letters."""
