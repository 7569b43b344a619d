"""The daemon: makes the parts, wires them, runs them, ends them in the right order.

`main` is one life from lock to unlock, `life` the parts and their order, `serving` what only serves
people, `ending` the ways to an end, `reporting` where events are told. Nothing is decided here.
"""
