"""Image classification data: CIFAR-10 and image folders."""
