"""Search strategies: their contract, and one module for each kind."""
