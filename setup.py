from pathlib import Path

from setuptools import setup

RAPIDS = "26.6.*"


def gpu(cuda: str, cupy: str) -> list[str]:
    """What one CUDA version needs; spark-rapids-ml itself declares no dependencies."""
    rapids = [f"{name}-{cuda}=={RAPIDS}" for name in ("cudf", "cuml", "raft-dask")]
    undeclared = ["packaging", "psutil", "scipy"]
    return ["spark-rapids-ml==26.6.0", *undeclared, *rapids, cupy, "numpy<2.5", "pyarrow<24"]


setup(
    name="spark-semdedup",
    version="0.1.0",
    description="Exact semantic deduplication of embeddings on Apache Spark",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Spelled out: a package finder would pick up tests/ and conf/ as well.
    packages=["jobs", "udfs", "udfs.adapters"],
    package_data={"udfs": ["cuda/*.cu"]},
    install_requires=[
        "pyspark>=3.5,<4.2",
        "pandas>=2.2,<3",
        "pyarrow>=15",
        "numpy>=1.26",
        "faiss-cpu>=1.14",
    ],
    extras_require={
        "gpu-cu12": gpu("cu12", "cupy-cuda12x"),
        "gpu-cu13": gpu("cu13", "cupy-cuda13x"),
        # S3 itself is read through hadoop-aws (a JVM package); boto3 is for its credentials and uploads.
        "s3": ["boto3>=1.34"],
        "bench": ["semhash>=0.5", "threadpoolctl"],
        "fuzz": ["atheris>=2.3"],
        "dev": ["hypothesis>=6.100", "mypy>=1.13", "pandas-stubs<3", "pytest>=8", "pytest-xdist>=3.6", "ruff>=0.8"],
    },
    entry_points={"console_scripts": ["semdedup = jobs.dedup:main"]},
)
