"""The search for cells: space, strategies, child training, the study and its workers."""
