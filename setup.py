"""All metadata stands in pyproject.toml; here only which folders become packages.

tools/ and configs/ lie at the top of a checkout, where detectron2's users look for them, and are installed as
``nasnet_det_tools`` (``tools`` is a name that others take as well) and ``nasnet_det/configs``.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nasnet_det", "nasnet_det.*"]), "nasnet_det.configs", "nasnet_det_tools"],
    package_dir={"nasnet_det.configs": "configs", "nasnet_det_tools": "tools"},
)
