"""The chaos suite: seeded faults on real engines, and the world checked from outside after each.

    make chaos                       (a seed of its own, which it prints)
    make chaos SEED=7 FAULTS=1000    (the very same sequence again)

`declared` is the harness's own idea of what should run, `world` what it runs on, `bystanders` the
processes that nobody may touch, `faults` what is done, `checks` what must be true afterwards.
"""
