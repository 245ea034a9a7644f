"""What is joined to what: the model, the check that finds all problems, the streams, the pictures.

Pure: knows addresses and options as text, and nothing of fds, files or the kernel.
"""
