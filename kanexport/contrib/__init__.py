"""Packages around the exporter, each with its own extra: MLflow. The core imports none of them."""
