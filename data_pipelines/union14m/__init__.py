"""What Union14M and the common benchmarks are made of."""
