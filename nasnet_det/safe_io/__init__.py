"""Safe input and output: atomic writing of files, pickles read as data, values from outside validated."""
