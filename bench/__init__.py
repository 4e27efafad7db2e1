"""Figures of speed: each beside a peer measured in the same run, as a ratio, with the noise of the machine.

    make bench                    all of them
    make bench OPTIONS=imports    one
    make bench OPTIONS="xv6 kernel xv6.img fs.img"    the boot of an xv6 that you have built

No figure is a test: a loaded machine changes seconds, and hardly ratios.
"""
