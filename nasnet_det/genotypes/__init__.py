"""Cells as data: the genotype, the published cells, and their JSON, TF-slim and DARTS forms."""
