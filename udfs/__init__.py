"""What runs on executors: plain functions over arrays, and `adapters` that hands them to Spark."""
