"""A Java virtual machine: class files, an interpreter, a garbage-collected heap, and a compiler to x86."""
