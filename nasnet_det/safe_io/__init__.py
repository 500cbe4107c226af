"""Reading and writing without surprises: whole files or none, pickles as data, values of outside checked."""
