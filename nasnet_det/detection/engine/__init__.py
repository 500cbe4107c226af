"""Training, prediction and the demo of detectors."""
