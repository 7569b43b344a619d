"""The long-lived tasks: the reconciler (sole writer of what is observed), executor and monitor.

They talk through events only. A decision lives in `core`, an effect in `runtime`; what is here
brings the two together, in order, one pass at a time.
"""
