"""HTTP over the control socket: reads snapshots, posts intents, decides nothing.

Imported only after the first instances are under way, for it is slow to load.
"""
