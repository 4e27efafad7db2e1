"""What instructions are: one package for each processor architecture."""
