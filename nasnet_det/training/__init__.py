"""Training recipes for CIFAR-10 and ImageNet."""
