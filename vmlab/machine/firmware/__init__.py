"""The BIOS: how a PC starts from the first sector of a disk, and what it does for the code there.

`rom` is its machine code, `port` the door from there to host software, `boot` what happens at power-on; the other files are
services, one topic each.
"""
