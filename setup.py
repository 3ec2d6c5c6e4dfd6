"""The optional C kernel of hashcli.scan; without a compiler numpy does its work. Everything else is in pyproject."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("hashcli._scan", ["hashcli/_scan.c"], extra_compile_args=["-O3"], optional=True)])
