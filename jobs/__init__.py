"""The driver: options, Spark session, and the stages of the dedup job."""

__version__ = "0.1.0"
