"""Channels and buffers: files by position, mappings, memory for O_DIRECT, shared rings, views.

For programs that want the techniques of this package one at a time. Nothing here knows of graphs,
plans or the command line, and nothing is loaded before it is used.
"""
