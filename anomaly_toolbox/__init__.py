"""Anomaly Toolbox: finds anomalies in images with GANs, and says honestly how well."""

__version__ = "0.1.0"
