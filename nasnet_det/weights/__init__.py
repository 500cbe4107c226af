"""Reads published weights, each format by a pure function from named arrays to a state dict."""
