"""The words of the chapter, in English and in Korean, and its history: data, and how to ask it.

The data are the TOML files beside this one, a file a section of *Operating System Concepts* (10th ed., chapter 18).
"""
