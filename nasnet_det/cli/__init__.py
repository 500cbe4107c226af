"""The commands of ``nasnet-det``, one module each; ``main.py`` dispatches to them."""
