"""One HTML page that shows what a model is worth: self-contained, no script, no network.

Import the modules that are needed: `anomgan.report.wording` alone loads neither jinja2 nor scipy.
"""
