"""The rooms that a wheel holds. The root of the repository is the package, which `packages.find` has no words for."""

from setuptools import find_packages, setup

# None of these folders is a package today; a file __init__.py in one must not make it a room.
ROOMS = find_packages(exclude=["cpp*", "docs*", "examples*", "tests*"])

setup(packages=["caan", *(f"caan.{room}" for room in ROOMS)])
