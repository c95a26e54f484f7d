"""Build of the optional compiled kernel, without which the package works, but slower.

All other settings of the package are in pyproject.toml.
"""

import os
import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# A failing compiler stops the build where the kernel is required, as in CI.
REQUIRED = os.environ.get("GODB_ARROW_REQUIRE_NATIVE") == "1"
SANITIZE = os.environ.get("GODB_ARROW_SANITIZE", "")
SANITIZE_LEVEL = os.environ.get("GODB_ARROW_SANITIZE_LEVEL", "1")  # of optimization

# Python's own flags ask for symbols of a debugger, which take a quarter of the compiler's time.
flags = ["-std=c++17", "-O3", "-g0", "-fno-plt", "-Wall", "-Wextra", "-Wno-unused-function"]
link = []
if sys.platform == "linux":
    flags += ["-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]
    link = ["-Wl,-z,relro", "-Wl,-z,now"]
if SANITIZE:
    link = [f"-fsanitize={SANITIZE}"]
    flags = ["-std=c++17", f"-O{SANITIZE_LEVEL}", "-g1", "-fno-omit-frame-pointer"]
    flags += ["-fno-sanitize-recover", *link]
if os.name == "nt":
    flags, link = ["/std:c++17", "/O2"], []


class BuildIfPossible(build_ext):
    """Build command that continues without the kernel if the compiler fails."""

    def build_extension(self, extension: Extension) -> None:
        """Build an extension, or print why it cannot be built."""
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
    depends=sorted(glob("godb_arrow/codec/native/*.hpp") + glob("godb_arrow/codec/native/*.pxi")),
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
