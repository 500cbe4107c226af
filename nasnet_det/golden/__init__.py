"""Comparison with the recorded outputs of the original TensorFlow and Keras implementations."""
