"""All metadata is in pyproject.toml, except which folders become packages.

configs/ is at the top of a checkout, where detectron2's users expect it, and is installed as ``nasnet_det/configs``.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nasnet_det", "nasnet_det.*"]), "nasnet_det.configs"],
    package_dir={"nasnet_det.configs": "configs"},
)
