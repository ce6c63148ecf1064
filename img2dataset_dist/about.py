"""Who we are, in one place: read by setup.py, the user agent and the reports."""

VERSION = "0.1.0"
PROJECT_URL = "https://github.com/rom1504/img2dataset_dist"
