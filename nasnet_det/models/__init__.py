"""The network and its parts: stem, cells, operations, padding, the plan of their wiring, and the family of models."""

import timm  # noqa: F401 - runs the registration hook of ``nasnet_det`` before any module here is partly initialized
