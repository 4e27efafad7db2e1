"""Figures of speed: each beside a peer measured in the same run, as a ratio, with the noise of the machine.

    make bench                    all of them
    make bench OPTIONS=imports    one

No figure is a test: a loaded machine changes seconds, and hardly ratios.
"""
