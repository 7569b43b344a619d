"""Declare in YAML which local LLM servers should run; make it so, keep it so.

Packages, outermost first (an inner one never imports an outer one; `make lint` holds this):

    cli > daemon > settings > api > control > engines | discovery | runtime > core > errors
"""

__version__ = "0.1.0"
