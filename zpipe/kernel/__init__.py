"""One thin typed function per system call: no policy, no fallback, no waiting.

Everything here raises OSError as the kernel gave it. This package is the only user of ctypes and
fcntl. ctypes is imported on first use (about 2 ms), and called without argtypes: 375 ns instead of
782 ns a call on CPython 3.11.
"""
