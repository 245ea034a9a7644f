"""YAML text in, a graph and the settings of proxies out. Opens nothing but the recipe itself.

Knows the words that people write and where they stand in the file; what is wrong with them is found
all at once, and told with line and column. Knows nothing of fds or of the kernel.
"""
