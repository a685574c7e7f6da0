"""The rooms that a wheel holds. The root of the repository is the package, which `packages.find` has no words for."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# None of these folders is a package today; a file __init__.py in one must not make it a room.
ROOMS = find_packages(exclude=["cpp*", "docs*", "examples*", "tests*"])


class Modules(build_py):
    """All modules of the packages, without this file, which lies among the root's."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[:2] != ("caan", "setup")]


setup(packages=["caan", *(f"caan.{room}" for room in ROOMS)], cmdclass={"build_py": Modules})
