"""Which mover carries which hop, at what cost, and why not a faster one.

Pure: decides on facts and wishes; opens nothing, asks the kernel nothing, prints nothing.
"""
