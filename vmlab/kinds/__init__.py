"""Every kind of virtual machine (textbook 18.5), as a running system with the layers that it is made of."""
