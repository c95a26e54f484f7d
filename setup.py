"""The compiled kernel, which is optional: without a compiler the package works, but slower.

Everything else about the package is in pyproject.toml.
"""

import os
import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# A failing compiler stops the build where it must not pass unseen, as in CI.
REQUIRED = os.environ.get("GODB_ARROW_REQUIRE_NATIVE") == "1"
SANITIZE = os.environ.get("GODB_ARROW_SANITIZE", "")

flags = ["-std=c++17", "-O3", "-fno-plt", "-Wall", "-Wextra", "-Wno-unused-function"]
link = []
if SANITIZE:
    link = [f"-fsanitize={SANITIZE}"]
    flags = ["-std=c++17", "-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover", *link]
if os.name == "nt":
    flags, link = ["/std:c++17", "/O2"], []


class BuildIfPossible(build_ext):
    """Goes on without the kernel when there is no compiler, or one that is too old."""

    def build_extension(self, extension: Extension) -> None:
        """Build an extension, or say why not."""
        try:
            super().build_extension(extension)
        except Exception as error:
            if REQUIRED:
                raise
            print(f"the kernel was not compiled: {error}", file=sys.stderr)


native = Extension(
    "godb_arrow.codec.native._native",
    ["godb_arrow/codec/native/_native.pyx"],
    include_dirs=["godb_arrow/codec/native"],
    depends=sorted(glob("godb_arrow/codec/native/*.hpp")),
    language="c++",
    extra_compile_args=flags,
    extra_link_args=link,
    optional=not REQUIRED,
)

setup(
    cmdclass={"build_ext": BuildIfPossible},
    ext_modules=cythonize(
        [native],
        annotate=os.environ.get("GODB_ARROW_ANNOTATE") == "1",
        compiler_directives={"language_level": 3, "embedsignature": False},
    ),
)
